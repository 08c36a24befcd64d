import pytest

pytest.register_assert_rewrite("tests.folder_contract")
