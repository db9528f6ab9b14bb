"""Errors that a user can cause and mend."""

from __future__ import annotations

import sys
from collections.abc import Callable


class UserError(Exception):
    """A mistake of the user's: its message is one line that names the file or flag and the remedy.

    Commands print the message without a traceback and exit with 2.
    """


def exit_code(command: Callable[[], object]) -> int:
    """Runs a command: 0, or 2 after a user's mistake, whose one line is printed to standard error."""
    try:
        command()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
