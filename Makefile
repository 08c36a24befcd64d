# The commands of this project; each installs what it needs.
.DEFAULT_GOAL := help
SHELL := /bin/bash
UV := $(shell command -v uv || echo .uv/bin/uv)
RUN := .venv/bin

.PHONY: help install demo kubernetes-tools cluster test test-docs test-s3 test-slow test-browser test-hosts test-image test-kubernetes test-pods audit lint types docs bench-train bench-private bench-peers bench-loop bench-tokenize bench-utility bench-quality bench-sweep bench-report bench-generate bench-start clean

help:  ## Show this list
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 18

install: .venv/.installed  ## Install the locked environment into .venv

.uv/bin/uv:
	python3 -m pip install --quiet --target .uv 'uv>=0.9'

# Compiled: where PYTHONDONTWRITEBYTECODE is set, every process would compile TensorFlow and Ray anew, for 10 seconds each.
.venv/.installed: uv.lock pyproject.toml | $(filter .uv/bin/uv,$(UV))
	$(UV) sync --locked --group dev --compile-bytecode
	@touch $@

demo: install  ## Train on the demo's table, show ten synthetic rows and how faithful they are
	$(RUN)/python examples/make_demo_data.py
	$(RUN)/runner submit examples/quickstart.yaml
	$(RUN)/runner generate runs/randhie -n 10
	$(RUN)/runner report runs/randhie

kubernetes-tools: install  ## Build the Kubernetes programs that tests use, with Go (minutes, once)
	$(RUN)/python -m tests.kubernetes.tools

cluster: install  ## Start a Kubernetes cluster with KubeRay on loopback, until Ctrl-C
	$(RUN)/python -m tests.kubernetes.cluster

test: install  ## The quick tests
	$(RUN)/python -m pytest -n 4 --dist loadfile --no-loadscope-reorder tests/ray tests/unit

test-docs: install  ## The commands of README.md and docs/, and public files from import to report (needs Go and radosgw)
	$(RUN)/python -m pytest tests/docs

test-s3: install  ## Tests against a real S3 server (Debian's radosgw; see .ci/install-debian-packages)
	$(RUN)/python -m pytest tests/s3

test-slow: install  ## Runs that are killed, and other tests that take minutes
	$(RUN)/python -m pytest tests/slow

test-hosts: install  ## Runs on several hosts, which are killed and cut off (as root; Debian's iproute2)
	$(RUN)/python -m pytest tests/hosts

test-browser: install  ## The report page in Debian's chromium (see .ci/install-debian-packages)
	$(RUN)/python -m pytest tests/browser

test-image: install  ## The container image: built by an engine of its own, as root (see .ci/install-debian-packages)
	$(RUN)/python -m pytest tests/image

test-kubernetes: install  ## A Kubernetes control plane with KubeRay's operator, and the chart on it (builds the tools first)
	$(RUN)/python -m pytest tests/kubernetes

test-pods: install  ## The image's real pods on a real kubelet, killed in mid-run; as root, the first time half an hour
	$(RUN)/python -m pytest tests/pods --capture=no

audit: install  ## Check the privacy promises: mutants that must be caught, and an empirical audit (minutes)
	$(RUN)/python -m tests.mutants.run
	$(RUN)/python -m pytest tests/audit --ignore tests/audit/test_one_step.py
	$(RUN)/python -m pytest --capture=no tests/audit/test_one_step.py

lint: install  ## Check style and format
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .

types: install  ## Check types
	$(RUN)/pyright

docs: install  ## Write the reference pages that come from the code
	$(RUN)/python docs/write_reference.py

bench-train: install  ## The training step against Keras's LSTM and the reference kernels
	$(RUN)/python benchmarks/bench_train.py

bench-private: install  ## The private step against the project's own step without privacy
	$(RUN)/python benchmarks/bench_private.py

bench-peers: install  ## Both steps against those of Opacus and gretel-synthetics (downloads 3.4 GB)
	$(RUN)/python benchmarks/bench_peers.py

bench-loop: install  ## What the loop around the step costs, in time and memory
	$(RUN)/python benchmarks/bench_loop.py

bench-tokenize: install  ## Tokenizing through Ray Data against a plain loop
	$(RUN)/python benchmarks/bench_tokenize.py

bench-utility: install  ## What privacy costs in quality (an hour)
	$(RUN)/python benchmarks/bench_utility.py

bench-quality: install  ## Quality over epsilon beside peers, on public tables (hours; downloads 8 GB)
	$(RUN)/python benchmarks/bench_quality.py

bench-sweep: install  ## How much of a sweep of small trials is training
	$(RUN)/python benchmarks/bench_sweep.py

bench-generate: install  ## Generating records on one core (submit examples/texts.yaml first)
	$(RUN)/python benchmarks/bench_generate.py

bench-start: install  ## From `runner submit` to the first step
	$(RUN)/python benchmarks/bench_start.py

bench-report: install  ## `runner report` on 20,000 records
	$(RUN)/python benchmarks/bench_report.py

clean:  ## Remove what demo, tests and benchmarks leave
	rm -rf runs examples/data .pytest_cache .ruff_cache .hypothesis .benchmarks
