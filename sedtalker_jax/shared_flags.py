"""Flags of the commands: what reads them, those that several have, and what they name.

--embedding where a recording is heard, --template, --track, --subject and --style where a face is moved. What does not fit the
model is an error about the file that a flag names, whatever else the command reads.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sedtalker_jax.errors import UserError, about

if TYPE_CHECKING:
    from sedtalker_jax.emotion import EmotionTrack
    from sedtalker_jax.face.blendshape_basis import BlendshapeBasis
    from sedtalker_jax.face.template import FaceTemplate
    from sedtalker_jax.inference.pipeline import GivenEmbedding, SEDTalker


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


def given_embedding(arguments: argparse.Namespace, model: SEDTalker) -> GivenEmbedding:
    """What --embedding names, None without it.

    Raises:
      UserError: no readable file, no vector in it, or none that the model reads.
    """
    from sedtalker_jax.data.given_embeddings import read_embedding

    if arguments.embedding is None:
        return None
    with about(arguments.embedding):
        return model.check_embedding(read_embedding(arguments.embedding))


def add_subject(parser: argparse.ArgumentParser) -> None:
    """Adds --subject and --style to a command."""
    parser.add_argument(
        "--subject",
        metavar="NAME",
        help="training subject whose way of moving the face takes on (default: nobody's in particular)",
    )
    parser.add_argument("--style", metavar="FILE", help="way of moving that fit-style made of somebody")


def given_manner(arguments: argparse.Namespace, model: SEDTalker) -> tuple[SEDTalker, str | None]:
    """The model in the style of --style, and the training subject of --subject; as it is and None without them.

    Raises:
      UserError: both are given, no style is in the file, or the model can't move a face like that.
    """
    from sedtalker_jax.inference.style import Style, subject_row

    if arguments.subject is not None and arguments.style is not None:
        raise UserError("--subject and --style each say whose way of moving the face takes on; give one of them")
    if arguments.style is not None:
        style = Style.load(arguments.style)
        with about(arguments.style):
            return model.with_style(style), None
    with about(arguments.checkpoint):
        subject_row(model, arguments.subject)
    return model, arguments.subject


def given_face(arguments: argparse.Namespace, model: SEDTalker) -> FaceTemplate:
    """The face that --template names, the model's first one without it.

    Raises:
      UserError: no face of the model's topology, or a model that moves none.
    """
    with about(arguments.checkpoint if arguments.template is None else arguments.template):
        return model.template(arguments.template)


def add_basis(parser: argparse.ArgumentParser, use: str = ".glb, .usd and .csv") -> None:
    """Adds the flag to a command; `use` says what blendshapes are for there."""
    parser.add_argument(
        "--basis",
        metavar="FILE",
        help=f".npz of the face's blendshapes (mean [V, 3], shapes [W, V, 3] in metres, names [W]), for {use} "
        "(default: the built-in rig, where the face is a built-in head)",
    )


def given_basis(arguments: argparse.Namespace, face: FaceTemplate, targets: Sequence[Path]) -> BlendshapeBasis | None:
    """The blendshapes of --basis in which `targets` are written or read; None without it: the built-in rig, where it fits.

    Raises:
      UserError: no blendshapes of this face in the file, or none at all for a .csv; a .csv of shapes that ARKit lacks.
    """
    from sedtalker_jax.face.blendshape_basis import BlendshapeBasis

    weights = [path for path in targets if path.suffix.lower() == ".csv"]
    if arguments.basis is not None:
        with about(arguments.basis):
            basis = BlendshapeBasis.load(arguments.basis).on(face)
            if weights:
                basis.check_arkit()
            return basis
    if weights and BlendshapeBasis.known(face) is None:
        raise UserError(f"{weights[0]}: no blendshapes are known for topology {face.topology}; give them as --basis FILE.npz")
    return None


def given_track(arguments: argparse.Namespace, model: SEDTalker, num_samples: int) -> EmotionTrack | None:
    """What --track names, None without it.

    Args:
      num_samples: of the recording at 16 kHz.

    Raises:
      UserError: no readable file, or a track that can't drive the model's face.
    """
    from sedtalker_jax.axes import SAMPLE_RATE
    from sedtalker_jax.emotion import EmotionTrack

    if arguments.track is None:
        return None
    with about(arguments.track):
        track = EmotionTrack.load(arguments.track, labels=model.labels, duration=num_samples / SAMPLE_RATE)
        model.activations(track, num_samples)
    return track


def named_track(flag: str, names: Sequence[str], intensity: float | None, model: SEDTalker, num_samples: int) -> EmotionTrack:
    """One emotion after another, of equal duration, as a flag names them.

    Args:
      flag: without its dashes, for the error.
      intensity: 0 to 1, None = 1.
      num_samples: of the recording at 16 kHz.

    Raises:
      UserError: an emotion that the model's face can't show, or an intensity out of range.
    """
    from sedtalker_jax.axes import SAMPLE_RATE
    from sedtalker_jax.emotion import EmotionTrack

    with about(f"--{flag} {','.join(names)}"):
        return EmotionTrack.trajectory(names, 1.0 if intensity is None else intensity, num_samples / SAMPLE_RATE, model.labels)
