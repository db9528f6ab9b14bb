"""Errors that a user can cause and mend."""

from __future__ import annotations


class UserError(Exception):
    """A mistake of the user's: its message is one line that names the file or flag and the remedy.

    Commands print the message without a traceback and exit with 2.
    """
