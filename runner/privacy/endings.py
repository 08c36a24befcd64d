"""How a private run ended, and whether the number of its steps tells anything that epsilon does not cover.

A step takes as long as its longest record is. So how many steps fit into a time depends on the records, in a way that
no noise hides. A run that takes all its planned steps, or ends where its budget does, says nothing by their number.
"""

from __future__ import annotations

from runner.config import JobConfig
from runner.errors import PrivacyError

FAILED = "failed"
"""How a run ended that met an error."""
BY_TIME = ("stopped", "time limit", FAILED)
"""Endings that come at some moment, and not at a step that is known before."""
STEPS_NOT_COVERED = (
    "That does not cover how many steps the run took: time decided it, and a step takes as long as its longest record."
)

_HOW = {
    "all epochs done": "after all planned epochs; the number of steps is public",
    "privacy budget spent": "when the budget was spent; the number of steps follows from public figures",
    "stopped": "it was stopped on request",
    "time limit": "training.max_training_time_s had passed",
    FAILED: "an error ended it",
    "early stopping": "by early stopping; epsilon does not cover after how many steps",
    "ended by a callback": "a callback ended it; epsilon does not cover after how many steps",
}
_NOT_COVERED = "epsilon does not cover how many steps it took, which depends on how long the records are"


def steps_depend_on_time(config: JobConfig, ending: str | None, branches: int) -> bool:
    """Whether the clock decided how many steps are counted: by an ending, or by interruptions that opened branches."""
    return config.takes_private_steps and (ending in BY_TIME or branches > 1)


def ending_in_words(config: JobConfig, ending: str | None, branches: int) -> str:
    """How the run ended, for its statement; `ending` is None where nobody knows any more."""
    if not config.takes_private_steps:
        return "training looks at draws alone, so when it ended tells nothing about the records"
    how = _HOW.get(ending or "", "nobody knows any more")
    if branches > 1:
        how += f"; it was interrupted and went on under other conditions {branches - 1} times"
    return f"{how}; {_NOT_COVERED}" if steps_depend_on_time(config, ending, branches) else how


def check_no_time_limit(config: JobConfig) -> None:
    """Refuse a limit in seconds for steps that look at records.

    Raises:
        PrivacyError: the job has one.
    """
    if config.takes_private_steps and config.training.max_training_time_s is not None:
        raise PrivacyError(
            "training.max_training_time_s: how many steps fit into a time depends on how long the records are, which "
            "epsilon would not cover; set it to null, and bound the run by training.epochs or privacy.max_epsilon"
        )
