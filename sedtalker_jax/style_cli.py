"""The fit-style command: how somebody moves, from a short capture of voice and face."""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from sedtalker_jax.errors import UserError, about
from sedtalker_jax.outputs import check_distinct, check_output
from sedtalker_jax.shared_flags import (
    add_basis,
    add_embedding,
    given_basis,
    given_embedding,
    given_face,
    given_track,
    named_track,
)

if TYPE_CHECKING:
    from sedtalker_jax.emotion import EmotionTrack
    from sedtalker_jax.inference.pipeline import SEDTalker


def add_parser(commands) -> None:
    """Adds the command to an argparse collection of subcommands."""
    fit = commands.add_parser(
        "fit-style",
        help="how somebody moves, from a short capture, for `animate` and `edit --style`",
        description="Fits the animator's last layer to 3 to 60 seconds of voice and face of somebody whom training did not "
        "see, and before it a vector where the animator knows subjects. The last third judges how strongly; the command says "
        "how the error falls there.",
    )
    fit.add_argument("--checkpoint", required=True, metavar="DIR", help="workdir of train.py")
    fit.add_argument("--audio", required=True, metavar="FILE", help="the voice")
    fit.add_argument(
        "--motion",
        required=True,
        metavar="FILE",
        help="the face: .npy of vertices [F, V, 3] in metres or flat, .npz of vertices and fps, or .csv of Live Link Face",
    )
    fit.add_argument(
        "--fps",
        type=float,
        metavar="X",
        help="frames per second, where --motion does not know its own (default: the model's)",
    )
    fit.add_argument("--template", required=True, metavar="FILE", help="the face at rest: .ply or .obj of the model's topology")
    fit.add_argument("--track", metavar="FILE", help="what the face feels in the capture, in a format that diarize writes")
    fit.add_argument("--emotion", metavar="NAME", help="instead of a track: one emotion, or neutral, all the time")
    fit.add_argument("--intensity", type=float, metavar="X", help="of --emotion, 0 to 1 (default: 1)")
    add_embedding(fit)
    add_basis(fit, "a .csv --motion")
    fit.add_argument("--out", required=True, metavar="FILE", help=".npz")
    fit.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """fit-style: a capture to a style."""
    from pathlib import Path

    from sedtalker_jax.comparison_cli import read_panel
    from sedtalker_jax.face.blendshape_basis import BlendshapeBasis
    from sedtalker_jax.face.live_link import read_live_link
    from sedtalker_jax.inference.pipeline import SEDTalker
    from sedtalker_jax.inference.style_fit import fit_style
    from sedtalker_jax.speech import load_audio

    if (arguments.track is None) == (arguments.emotion is None):
        raise UserError("say what the face feels in the capture: --track FILE, or --emotion NAME such as neutral")
    if arguments.intensity is not None and (arguments.emotion is None or not 0.0 <= arguments.intensity <= 1.0):
        raise UserError("--intensity: a number from 0 to 1 that says how strong --emotion is")
    target = check_output(arguments.out, (".npz",))
    files = ("audio", "motion", "template", "track", "embedding", "basis")
    check_distinct([target], [getattr(arguments, name) for name in files])
    waveform = load_audio(arguments.audio)
    model = SEDTalker.load(arguments.checkpoint)
    face = given_face(arguments, model)
    if arguments.fps is not None and not 0.0 < arguments.fps < math.inf:
        raise UserError(f"--fps {arguments.fps:g}: must be more than 0")
    motion = Path(arguments.motion)
    if motion.suffix.lower() == ".csv":
        basis = given_basis(arguments, face, [motion]) or BlendshapeBasis.known(face)
        assert basis is not None
        weights, fps = read_live_link(motion)
        captured = basis.posed(weights).astype(np.float32)
    else:
        panel, fps = read_panel("capture", motion, arguments.template, None, arguments.fps or model.fps)
        captured = panel.vertices
    vertices = _at_rate(captured, fps, model.fps)
    track = _given_emotion(arguments, model, len(waveform))
    embedding = given_embedding(arguments, model)
    with about(arguments.motion):
        fit = fit_style(model, waveform, vertices, face, track, given_embedding=embedding)
    fit.style.save(target)
    print(f"{target}: squared vertex error on the capture's last third {fit.before:.4f} -> {fit.after:.4f}")


def _at_rate(vertices: Float[np.ndarray, "F V 3"], fps: float, wanted: float) -> Float[np.ndarray, "G V 3"]:
    """Positions at the model's frames, on straight lines between the capture's; frame f lies at f / fps s."""
    if fps == wanted:
        return vertices
    # As many frames as the same duration has, of which the last may lie up to one frame past the capture's last.
    times = np.minimum(np.arange(max(1, round(len(vertices) / fps * wanted))) / wanted * fps, len(vertices) - 1)
    before = np.minimum(times.astype(int), max(0, len(vertices) - 2))
    after = np.minimum(before + 1, len(vertices) - 1)
    share = (times - before)[:, None, None]
    return vertices[before] * (1.0 - share) + vertices[after] * share


def _given_emotion(arguments: argparse.Namespace, model: SEDTalker, num_samples: int) -> EmotionTrack:
    """What --emotion or --track says that the face feels."""
    if arguments.emotion is None:
        track = given_track(arguments, model, num_samples)
        assert track is not None
        return track
    return named_track("emotion", [arguments.emotion], arguments.intensity, model, num_samples)
