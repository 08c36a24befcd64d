"""A run of a process whose address space has no room for all of a batch at once, but for half of it.

python -m tests.ray.out_of_memory JOB MIB          # MIB: what a step may take
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path
from typing import Any

from runner.config import load_job
from runner.submit.launch import Launch
from runner.submit.start import start_run


def main() -> None:
    job, mib = Path(sys.argv[1]), int(sys.argv[2])
    config = load_job(job, ())
    from runner.train.step import TrainingStep

    train = TrainingStep.train

    def limited(self: TrainingStep, *arguments: Any, **options: Any) -> Any:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        free = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (mib << 20), free[1]))
        try:
            return train(self, *arguments, **options)
        finally:
            resource.setrlimit(resource.RLIMIT_AS, free)

    TrainingStep.train = limited  # type: ignore[method-assign]
    start_run(config, Launch(quiet=True))


if __name__ == "__main__":
    main()
