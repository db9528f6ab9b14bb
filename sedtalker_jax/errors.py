"""Errors that a user can cause and mend."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator

UNREADABLE_ARRAYS = (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile, zlib.error)
"""What numpy.load and the use of its result raise on a damaged .npy or .npz file, one of another kind, or a foreign one."""


class UserError(Exception):
    """A mistake of the user's: its message is one line that names the file or flag and the remedy.

    Commands print the message without a traceback and exit with 2.
    """


@contextlib.contextmanager
def about(path: str | os.PathLike) -> Iterator[None]:
    """Puts the file or flag that a user's mistake is about in front of its message, where it is not named."""
    try:
        yield
    except UserError as error:
        if str(path) in str(error):
            raise
        raise UserError(f"{path}: {error}") from error


@contextlib.contextmanager
def from_config() -> Iterator[None]:
    """Turns the ValueError of a configured value, whose message says what the value must be, into a user's mistake."""
    try:
        yield
    except ValueError as error:
        raise UserError(f"config: {error}") from error


def exit_code(command: Callable[[], object]) -> int:
    """Runs a command: 0, 2 after a user's mistake, whose one line is printed to standard error, or 130 after Ctrl-C."""
    # The checkpoint library reports what it does through this logger; a user wants results and errors.
    logging.getLogger("absl").setLevel(logging.ERROR)
    try:
        command()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0
