"""The ledger over runs on a real S3 server: the contract that holds for a local folder too."""

from __future__ import annotations

import pytest

from runner.storage import Folder, open_folder
from tests.spending_contract import SpendingContract


@pytest.fixture
def folder(bucket: str) -> Folder:
    return open_folder(f"s3://{bucket}/a prefix/runs")


class TestS3Spending(SpendingContract):
    """The contract that `tests/unit/test_budget.py` runs too."""
