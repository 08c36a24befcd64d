"""Private steps are not limited by a clock, neither from the beginning nor by a resume."""

from __future__ import annotations

from typing import Any

import pytest

from runner.config import JobConfig, parse_job
from runner.driver import check_changes
from runner.errors import PrivacyError
from runner.privacy.endings import check_no_time_limit, ending_in_words, steps_depend_on_time


def job(limit: float | None, **more: Any) -> JobConfig:
    document = {
        "name": "demo",
        "data": {"uri": "records/"},
        "tokenizer": {"kind": "byte"},
        "training": {"max_training_time_s": limit},
        "privacy": {"enabled": True, "noise_multiplier": 1.0},
    }
    return parse_job(document | more, environment={})


DRAWS = {
    "fields": {"age": {"kind": "integer", "range": [0, 9], "nullable": False}},
    "tokenizer": {"kind": "fields"},
    "privacy": {"enabled": True, "target_epsilon": 1.0},
}
"""A run whose steps look at no record."""


def test_a_time_limit_for_steps_that_look_at_records_is_refused() -> None:
    with pytest.raises(
        PrivacyError, match=r"max_training_time_s: how many steps fit .* depends on how long the records"
    ):
        check_no_time_limit(job(60))
    for fine in (job(None), job(60, privacy={}), job(60, **DRAWS)):
        check_no_time_limit(fine)


def test_a_resume_cannot_add_one_but_a_run_that_began_with_one_goes_on() -> None:
    with pytest.raises(PrivacyError, match="max_training_time_s"):
        check_changes(job(None), job(60))
    check_changes(job(60), job(90))
    check_changes(job(60), job(None))
    check_changes(job(None, privacy={}), job(60, privacy={}))


def test_when_a_run_on_draws_ended_tells_nothing_about_records() -> None:
    config = job(None, **DRAWS)
    assert not steps_depend_on_time(config, "stopped", 1)
    assert "tells nothing about the records" in ending_in_words(config, "stopped", 1)
