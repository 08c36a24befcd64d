"""What the last steps of a run released, by a digest each: a step that is taken again has to release the same.

    private/steps.json     the digests of the newest branch's steps since one of its last checkpoints

They are written down before anything that follows from these steps is published, and each process that goes on in the
branch compares. A process that was killed may have taken a few steps more, of which nothing is published.
"""

from __future__ import annotations

import json
from collections import deque

from runner.errors import RepeatedOtherwiseError
from runner.privacy.noise import fingerprint
from runner.storage import Folder

STEPS_FILE = "steps.json"
CHECKPOINTS = 3
"""A run goes on from one of its two newest checkpoints, and from a third while the newest is being written."""


class StepDigests:
    """Digests of the steps from `first_step` on that a branch has released."""

    def __init__(self, folder: Folder, branch: str, first_step: int, digests: list[str]) -> None:
        """`branch`: its name in the ledger."""
        self.branch = branch
        self.first_step = first_step
        self._folder = folder
        self._digests = digests
        self._checkpoints = deque([first_step])
        self._written: tuple[int, int] | None = None

    @classmethod
    def read(cls, folder: Folder) -> StepDigests | None:
        """Those in storage; None where there are none, or they do not verify."""
        try:
            document = json.loads(folder.read_if_exists(STEPS_FILE) or b"null")
            recorded = document.pop("sha256")
            if recorded != fingerprint(document):
                return None
            return cls(folder, document["branch"], document["first_step"], document["digests"])
        except (ValueError, AttributeError, KeyError, TypeError):
            return None

    def knows_from(self, branch: str, step: int) -> bool:
        """Whether a process that goes on in this branch from `step` can compare all that was published after it."""
        return self.branch == branch and step >= self.first_step

    def compare(self, step: int, digest: str, *, keep: bool) -> None:
        """Compare a step's digest with that of the same step in an earlier process; `keep` it where it is the first.

        Raises:
            RepeatedOtherwiseError: it is another one.
        """
        place = step - self.first_step
        if place < len(self._digests) and self._digests[place] != digest:
            raise RepeatedOtherwiseError(
                f"step {step}, taken again, did not give the same numbers: they are thrown away, and the run goes on "
                "from its checkpoint in a new branch; resume it if it does not by itself"
            )
        if keep and place == len(self._digests):
            self._digests.append(digest)

    def forget_before_checkpoints(self, step: int) -> None:
        """A checkpoint is being written at `step`: steps before the one that is then removed are not taken again."""
        self._checkpoints.append(step)
        if len(self._checkpoints) > CHECKPOINTS:
            self._checkpoints.popleft()
        gone = self._checkpoints[0] - self.first_step
        del self._digests[:gone]
        self.first_step += gone

    def write(self) -> None:
        """Leave them in storage, where there is something new."""
        now = (self.first_step, len(self._digests))
        if now == self._written:
            return
        document = {"branch": self.branch, "first_step": self.first_step, "digests": self._digests}
        signed = document | {"sha256": fingerprint(document)}
        self._folder.write(STEPS_FILE, json.dumps(signed).encode())
        self._written = now
