"""Flags of the commands: what reads them, and those that several have, --embedding where a recording is heard, --subject and
--style where a face is moved.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from sedtalker_jax.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float

    from sedtalker_jax.inference.style import Style


class CommandParser(argparse.ArgumentParser):
    """Reads flags in full only, as do the parsers of its subcommands.

    The beginning of a flag's name may be another flag of another command: `edit --track FILE` must not mean --track-out, and
    write where `animate --track FILE` reads.
    """

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, allow_abbrev=False, **options)


def add_embedding(parser: argparse.ArgumentParser, more: str = "") -> None:
    """Adds the flag to a command; `more` ends its help."""
    parser.add_argument(
        "--embedding",
        metavar="FILE",
        help=".npy of the recording's own vector, for a checkpoint that was trained on given embeddings" + more,
    )


def given_embedding(arguments: argparse.Namespace) -> Float[np.ndarray, " C"] | None:
    """What the flag names, None without it.

    Raises:
      UserError: no readable file, or no vector in it.
    """
    from sedtalker_jax.data.given_embeddings import read_embedding

    return read_embedding(arguments.embedding) if arguments.embedding else None


def add_subject(parser: argparse.ArgumentParser) -> None:
    """Adds --subject and --style to a command."""
    parser.add_argument(
        "--subject",
        metavar="NAME",
        help="training subject whose way of moving the face takes on (default: nobody's in particular)",
    )
    parser.add_argument("--style", metavar="FILE", help="way of moving that fit-style made, instead of a training subject's")


def given_subject(arguments: argparse.Namespace) -> str | Style | None:
    """What --subject or --style names, None without either.

    Raises:
      UserError: both are given, or no style is in the file.
    """
    from sedtalker_jax.inference.style import Style

    if arguments.subject and arguments.style:
        raise UserError("--subject and --style each say whose way of moving the face takes on; give one of them")
    return Style.load(arguments.style) if arguments.style else arguments.subject
