"""The --embedding flag, which every command that reads the emotion of one recording has."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float


def add_embedding(parser: argparse.ArgumentParser) -> None:
    """Adds the flag to a command."""
    parser.add_argument(
        "--embedding",
        metavar="FILE",
        help=".npy of the recording's own vector, for a checkpoint that was trained on given embeddings",
    )


def given_embedding(arguments: argparse.Namespace) -> Float[np.ndarray, " C"] | None:
    """What the flag names, None without it.

    Raises:
      UserError: no readable file, or no vector in it.
    """
    from sedtalker_jax.data.given_embeddings import read_embedding

    return read_embedding(arguments.embedding) if arguments.embedding else None
