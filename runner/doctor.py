"""What `runner doctor` looks at: is this machine ready, and what would a user have to mend."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import cache_from_source
from pathlib import Path

from runner.errors import RunnerError, last_line


@dataclass(frozen=True)
class Check:
    """One thing looked at."""

    name: str
    is_fine: bool
    finding: str


def examine(runs_uri: str, address: str | None) -> list[Check]:
    """All checks, each in its own right: one that fails does not hide the others."""
    looks: dict[str, Callable[[], str]] = {
        "python": _python,
        "memory": _memory,
        "ray": lambda: _version("ray"),
        "tensorflow": _tensorflow,
        "gpus": _gpus,
        "sentencepiece": lambda: _version("sentencepiece"),
        "pyarrow": lambda: _version("pyarrow"),
        "storage": lambda: _storage(runs_uri),
    }
    if address is not None:
        looks["cluster"] = lambda: _cluster(address)
    return [_check(name, look) for name, look in looks.items()]


def _check(name: str, look: Callable[[], str]) -> Check:
    try:
        return Check(name, True, look())
    except RunnerError as error:
        return Check(name, False, str(error))
    except Exception as error:  # noqa: BLE001 - whatever is broken here is the finding
        return Check(name, False, last_line(error))


def _python() -> str:
    return f"{sys.version.split()[0]} on {platform.machine()}, {os.cpu_count()} cores"


def _memory() -> str:
    pages = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return f"{pages / 2**30:.1f} GiB"


def _version(module: str) -> str:
    import importlib

    return str(importlib.import_module(module).__version__)


def _tensorflow() -> str:
    found = _version("tensorflow")
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    trains_on = f"{len(gpus)} GPU(s)" if gpus else "no GPU: trains on the CPU"
    return f"{found}, {trains_on}{_compiling(Path(str(tf.__file__)))}"


def _gpus() -> str:
    from runner.train.gpus import describe_gpus

    if not (found := describe_gpus()):
        return "none that NVIDIA's driver tells of; with one, install runner[gpu]"
    import tensorflow as tf

    built = tf.sysconfig.get_build_info()
    wants = f"TensorFlow is built for CUDA {built.get('cuda_version')} and cuDNN {built.get('cudnn_version')}"
    return "; ".join([*found, wants])


def _compiling(module: Path) -> str:
    """What to do where each process compiles TensorFlow and Ray anew: images often tell Python to keep nothing."""
    if not sys.dont_write_bytecode or Path(cache_from_source(str(module))).exists():
        return ""
    return (
        "; is compiled anew at each start, which takes 10 s, as PYTHONDONTWRITEBYTECODE is set: "
        f"run `python -m compileall -q {module.parents[1]}` once"
    )


def _storage(runs_uri: str) -> str:
    from runner.storage import open_folder

    folder = open_folder(runs_uri, patient=False)
    folder.check_writable()
    return f"{folder.uri} can be written"


def _cluster(address: str) -> str:
    from runner.submit.ray_jobs import connect

    client = connect(address)
    return f"{address} answers, Ray {client.get_version()}"
