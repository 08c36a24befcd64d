"""What in a folder is ours to remove: the names that we write, in a folder that we marked as ours.

    RUN_FILES = Layout("job\\.yaml", "logs/[0-9T]+\\.log")       # patterns of whole names
    RUN_FILES.remove(folder, first="status.json", last="job.yaml")

A layout says nothing of whose folder it is: who calls `remove` has found the marker (see `runner.run_files`,
`runner.data.shards`). Whatever else is in the folder, and a directory that holds it, stays.
"""

from __future__ import annotations

import re

from runner.storage.folder import Folder


class Layout:
    """All names that we write in one kind of folder."""

    def __init__(self, *patterns: str) -> None:
        self._name = re.compile("|".join(patterns))

    def __contains__(self, name: str) -> bool:
        return self._name.fullmatch(name) is not None

    def names_in(self, folder: Folder) -> list[str]:
        """The objects of the folder that are ours, sorted."""
        return [entry.name for entry in folder.list() if entry.name in self]

    def remove(self, folder: Folder, *, first: str, last: str, keep: str) -> None:
        """Remove what is ours in a folder but for `keep`: `first` before and `last` after everything else."""
        names = [name for name in self.names_in(folder) if name != keep]
        for group in (
            [name for name in names if name == first],
            [name for name in names if name not in (first, last)],
            [name for name in names if name == last],
        ):
            folder.remove(group)
