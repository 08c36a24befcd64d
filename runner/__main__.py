"""The `runner` command, also as `python -m runner`: the screen, and an error's line and exit code."""

from __future__ import annotations

import logging
import os
import sys

import click

from runner.cli import cli
from runner.errors import JobFailedError, find_user_error, last_line
from runner.screen import tell


def _silence_native_code() -> None:
    """Keep what C++ libraries write to standard error off the screen: TensorFlow has no switch for all of it.

    Python's own standard error still reaches the screen. `--debug` leaves everything as it is.
    """
    if "--debug" in sys.argv:
        return
    screen = os.dup(2)
    sys.stderr = os.fdopen(screen, "w", buffering=1, errors="backslashreplace")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)


def _show_warnings() -> None:
    """The project's own warnings as plain lines on standard error; errors are `main`'s to show."""

    class OnScreen(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.levelno == logging.WARNING:
                tell(f"warning: {record.getMessage()}")

    logging.getLogger("runner").addHandler(OnScreen())
    logging.getLogger("runner").propagate = False


def main() -> None:
    """The `runner` command: one line for an error, and the exit code of its kind."""
    _silence_native_code()
    _show_warnings()
    try:
        cli.main(standalone_mode=False)
    except click.exceptions.Abort:
        code = 1
    except click.exceptions.NoArgsIsHelpError as error:
        tell(error.format_message())
        code = 2
    except click.ClickException as error:
        tell(f"error: {error.format_message()}")
        code = 2
    except Exception as error:
        shown = find_user_error(error) or JobFailedError(f"unexpected: {last_line(error)}")
        for line in str(shown).splitlines():
            tell(f"error: {line}")
        if "--debug" in sys.argv:
            raise
        code = shown.exit_code
    else:
        code = 0
    sys.exit(code)


if __name__ == "__main__":
    main()
