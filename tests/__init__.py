import pytest

pytest.register_assert_rewrite("tests.folder_contract", "tests.spending_contract")
