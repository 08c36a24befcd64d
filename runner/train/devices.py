"""Which devices a worker trains on: GPUs, threads and the distribution strategy.

Called before TensorFlow's first operation: afterwards none of this can be changed. The same once more is well, as when
a process trains one trial of a sweep after the other.
"""

from __future__ import annotations

import ctypes
import logging
import os
import platform
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import tensorflow as tf

from runner.config import ResourcesConfig
from runner.errors import ResourceError, last_line

log = logging.getLogger(__name__)

ROUNDING_VARIABLES = ("TF_", "XLA_", "ONEDNN_", "DNNL_", "OPENBLAS_", "OMP_", "MKL_", "NVIDIA_", "CUDA_")
"""Environment variables of these names choose kernels, threads or instructions, and with them how sums are rounded."""


def set_up_devices(resources: ResourcesConfig, threads: int | None, *, exact: bool = False) -> None:
    """Use as many GPUs as the job asks for, and `threads` cores (None: all).

    `exact`: matrix products of float32 are float32, and not TF32 with 10 bits, by which a norm can pass its clip.

    Raises:
        ResourceError: GPUs were asked for and TensorFlow sees too few, or this process already uses other devices.
    """
    found = tf.config.list_physical_devices("GPU")
    wanted = resources.gpus_per_worker
    if len(found) < wanted:
        raise ResourceError(
            f"resources.gpus_per_worker is {wanted}, but TensorFlow sees {len(found) or 'no'} GPU"
            f"{'s' if len(found) > 1 else ''} on this worker; install tensorflow[and-cuda] and check nvidia-smi, "
            "or set it to 0"
        )
    if found and not wanted:
        log.warning("this worker has %d GPU(s) and the job uses none; set resources.gpus_per_worker", len(found))
    tf.config.experimental.enable_tensor_float_32_execution(not exact)
    try:
        tf.config.set_visible_devices(found[:wanted], "GPU")
        for gpu in found[:wanted]:
            tf.config.experimental.set_memory_growth(gpu, True)
        if tf.config.threading.get_intra_op_parallelism_threads() != (threads or 0):
            tf.config.threading.set_intra_op_parallelism_threads(threads or 0)
    except RuntimeError as error:
        raise ResourceError(
            f"{last_line(error)} This process already trained with other resources; start again in a new one"
        ) from error


def make_strategy(resources: ResourcesConfig) -> tf.distribute.Strategy:
    """The strategy the job asks for; `auto` takes the simplest that uses all devices.

    Several workers find each other through TF_CONFIG, which the backend has set.
    """
    # Listing logical devices starts TensorFlow's runtime, after which workers can no longer be joined.
    if resources.strategy == "multi_worker" or resources.workers > 1:
        with _our_sigterm():
            return tf.distribute.MultiWorkerMirroredStrategy()
    devices = [device.name for device in _logical_devices()]
    if resources.strategy == "mirrored" or len(devices) > 1:
        return tf.distribute.MirroredStrategy(devices)
    return tf.distribute.get_strategy()


@contextmanager
def _our_sigterm() -> Iterator[None]:
    """Put back what SIGTERM does: TensorFlow's coordination service takes it for itself, and then nothing stops.

    By the C library, because Python sets handlers in the main thread only, and workers train in another.
    """
    libc = ctypes.CDLL(None)
    libc.signal.restype = ctypes.c_void_p
    libc.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
    ours = libc.signal(signal.SIGTERM, None)
    try:
        yield
    finally:
        libc.signal(signal.SIGTERM, ours)


def local_replicas(strategy: tf.distribute.Strategy, rank: int, workers: int) -> range:
    """The replicas of worker `rank`, of all that the strategy has."""
    each = strategy.num_replicas_in_sync // workers
    return range(rank * each, (rank + 1) * each)


def memory_bytes() -> int:
    """Memory this process may use: the container's limit where there is one, else the machine's."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            with open(path) as limit:  # noqa: PTH123
                total = min(total, int(limit.read()))
        except (OSError, ValueError):
            continue
    return total


def machine() -> list[str]:
    """What computes here: the kind of processor and of every device. Another kind may round sums otherwise."""
    processor = platform.machine()
    with suppress(OSError):
        names = re.findall(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        processor = names[0] if names else processor
    gpus = [tf.config.experimental.get_device_details(gpu) for gpu in tf.config.get_visible_devices("GPU")]
    return [processor, *(str(gpu.get("device_name", "GPU")) for gpu in gpus)]


def rounding_environment() -> dict[str, str]:
    """The environment variables that may change how sums are rounded. TF_CONFIG has addresses, new at every start."""
    return {
        name: value
        for name, value in sorted(os.environ.items())
        if name.startswith(ROUNDING_VARIABLES) and name != "TF_CONFIG"
    }


def _logical_devices() -> list[tf.config.LogicalDevice]:
    return tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
