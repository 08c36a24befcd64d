"""Ask tensorflow-privacy, which cannot be installed beside this TensorFlow, for a second opinion.

`second_opinion.py` runs in an environment of its own. uv makes it from the script's lock file on first use (about
300 MB to download, 1.2 GB on disk) and keeps it in its cache: later calls need no network.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np

from runner.errors import JobFailedError, ResourceError

Command = Literal["clipped-sum", "epsilon", "membership"]

SCRIPT = Path(__file__).with_name("second_opinion.py")
UV_FOLDERS = (sysconfig.get_path("scripts"), str(Path(__file__).parents[2] / ".uv" / "bin"))
"""Where uv may be besides PATH: beside this Python, and in a checkout of this project."""


def ask_second_opinion(command: Command, question: Mapping[str, Any]) -> dict[str, Any]:
    """What tensorflow-privacy answers. The functions of `second_opinion.py` say what each command takes and returns.

    question: arrays for `clipped-sum` and `membership`, numbers for `epsilon`.
    Returns arrays for `clipped-sum`, plain values for the other two.

    Raises:
        ResourceError: uv is missing.
        JobFailedError: uv could not make the environment, or the script refused the question or failed.
    """
    uv = find_uv()
    with TemporaryDirectory() as folder:
        asked = Path(folder, "question.json" if command == "epsilon" else "question.npz")
        answered = Path(folder, "answer.npz" if command == "clipped-sum" else "answer.json")
        if asked.suffix == ".npz":
            np.savez(asked, **question)
        else:
            asked.write_text(json.dumps(dict(question)))
        finished = subprocess.run(
            [uv, "run", "--locked", "--script", SCRIPT, command, asked, answered],
            cwd=folder,  # Outside any project, whose settings for uv would apply.
            env=_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if finished.returncode != 0:
            raise JobFailedError(f"the second opinion of tensorflow-privacy failed: {_last_words(finished)}")
        if answered.suffix == ".npz":
            with np.load(answered, allow_pickle=False) as arrays:
                return dict(arrays)
        return json.loads(answered.read_text())


def find_uv() -> str:
    """The path of uv: what the environment variable UV names, else the first on PATH or in UV_FOLDERS.

    Raises:
        ResourceError: there is none.
    """
    named = os.environ.get("UV")
    uv = shutil.which(named or "uv", path=os.pathsep.join((os.environ.get("PATH", os.defpath), *UV_FOLDERS)))
    if uv is None:
        found = f"the environment variable UV names {named}, which cannot be run" if named else "it is not installed"
        raise ResourceError(f"the second opinion of tensorflow-privacy needs uv, but {found}; run: pip install uv")
    return uv


def _environment() -> dict[str, str]:
    """This process's environment without what would bring its packages into the script's."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}


def _last_words(finished: subprocess.CompletedProcess[str]) -> str:
    """The last line on stderr, which is where the script, Python and uv each say what was wrong."""
    lines = finished.stderr.strip().splitlines()
    return lines[-1].strip() if lines else f"exit code {finished.returncode} and not a word"
