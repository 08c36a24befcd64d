"""A pytest plugin that puts a fault into `runner` before any test is imported.

RUNNER_MUTANT=noise_is_off python -m pytest -p tests.mutants.plugin tests/promises

Processes that the tests start inherit the variable, and call `apply_from_environment` themselves.
"""

from __future__ import annotations

import pytest

from tests.mutants.mutants import apply_from_environment


def pytest_configure(config: pytest.Config) -> None:
    apply_from_environment()
