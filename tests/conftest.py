"""For all tests: no deadlines of Hypothesis, because a busy machine is no failure; Ctrl-C; one S3 server a process."""

from __future__ import annotations

import signal

from hypothesis import settings

from tests.s3.fixtures import bucket, flaky_s3, s3_env, s3_server

__all__ = ["bucket", "flaky_s3", "s3_env", "s3_server"]

settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")

# A shell's background job ignores Ctrl-C, and so would all that the tests start, also where they send it themselves.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
