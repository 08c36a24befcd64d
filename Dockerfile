# The image of `runner`, for one machine and for the nodes of a Ray cluster. docs/image.md is about it.
#
# Of the stages the first holds what is installed, the second this project, and the image takes what it needs from both.
# The base is any image with Debian's packages, Python 3.11 and pip.
ARG BASE_IMAGE=python:3.11-slim

FROM ${BASE_IMAGE} AS dependencies
# A base may have another user. Nothing of this stage runs later, so it may end with root.
# hadolint ignore=DL3002
USER 0
# A package index of your own, which pip and uv read here. An argument, and in these two stages: the image keeps nothing
# of it.
ARG PIP_INDEX_URL
ARG UV_DEFAULT_INDEX
ARG UV_VERSION=0.13.9
RUN pip install --no-cache-dir --target /opt/uv "uv==${UV_VERSION}"
ENV PATH=/opt/uv/bin:$PATH \
    UV_NO_CACHE=1 \
    UV_PYTHON_DOWNLOADS=never
WORKDIR /src

# Both environments hold what is locked, checked by its hashes, and it may come from any index: the lock files name
# PyPI, and `uv sync` would insist on it. The headers are for those who extend TensorFlow in C++.

# What the second opinion of `runner audit` runs in.
COPY runner/privacy/second_opinion.py runner/privacy/second_opinion.py.lock ./
RUN uv export --frozen --script second_opinion.py --output-file second_opinion.txt --quiet \
    && uv venv /opt/second-opinion \
    && uv pip sync --python /opt/second-opinion --require-hashes second_opinion.txt \
    && rm -rf /opt/second-opinion/.lock /opt/second-opinion/lib/python3*/site-packages/tensorflow/include

# What this project runs in. Compiled, because on a read-only file system Python could not keep what it compiles.
# Without libclang and the asynchronous Kubernetes client, which nothing here imports, and Ray's jars, which are for
# programs in Java.
COPY pyproject.toml uv.lock ./
ARG DEVICE=cpu
RUN set -- --extra mlflow --extra optuna \
    && if [ "$DEVICE" != cpu ]; then set -- "$@" --extra "$DEVICE"; fi \
    && uv export --frozen --no-dev --no-emit-project --no-emit-package libclang "$@" --output-file runner.txt --quiet \
    && uv venv /opt/runner \
    && uv pip sync --python /opt/runner --compile-bytecode --require-hashes runner.txt \
    && rm -rf /opt/runner/.lock /opt/runner/lib/python3*/site-packages/tensorflow/include \
        /opt/runner/lib/python3*/site-packages/ray/jars /opt/runner/lib/python3*/site-packages/kubernetes/aio

FROM dependencies AS project
ARG PIP_INDEX_URL
ARG UV_DEFAULT_INDEX
COPY README.md LICENSE ./
COPY runner runner
RUN uv pip install --no-deps --compile-bytecode --python /opt/runner --prefix /project . \
    && rm -f /project/.lock

FROM ${BASE_IMAGE}
USER 0
# KubeRay 1.5 asks Ray nodes for their health with wget. No version of it here: that is the base's to say.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates wget \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* \
    && find / -xdev -type f -perm /6000 -exec chmod ug-s {} + \
    && useradd --non-unique --uid 1000 --gid 0 --no-create-home --home-dir /tmp --shell /bin/bash runner \
    && install --directory --mode 775 /work
COPY --from=dependencies /opt/second-opinion /opt/second-opinion
COPY --from=dependencies /opt/runner /opt/runner
COPY image /opt/image
COPY --from=project /project /opt/runner

# Any user may run this, known to /etc/passwd or not, on a read-only file system: what is written besides runs goes
# below /tmp. Runs go where the mounts are, by default below /work, which group 0 may write.
ENV PATH=/opt/runner/bin:$PATH \
    HOME=/tmp \
    USER=runner \
    UV=/opt/image/uv \
    RAY_USAGE_STATS_ENABLED=0
WORKDIR /work
USER 1000:0
HEALTHCHECK --interval=30s --timeout=20s --start-period=120s CMD ["/opt/image/healthy"]
ENTRYPOINT []
CMD ["runner", "--help"]

ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="runner" \
    org.opencontainers.image.description="Train LSTM text generators on sharded Parquet records" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}" \
    org.opencontainers.image.licenses="Apache-2.0"
