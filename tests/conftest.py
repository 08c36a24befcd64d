"""For all tests: Hypothesis without deadlines, because a busy machine is no failure; and one S3 server a process."""

from __future__ import annotations

from hypothesis import settings

from tests.s3.fixtures import bucket, flaky_s3, s3_env, s3_server

__all__ = ["bucket", "flaky_s3", "s3_env", "s3_server"]

settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")
