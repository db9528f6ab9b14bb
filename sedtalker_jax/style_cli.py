"""The fit-style command: how somebody moves, from a short capture of voice and face."""

from __future__ import annotations

import argparse

from sedtalker_jax.errors import about
from sedtalker_jax.outputs import check_distinct, check_output
from sedtalker_jax.shared_flags import add_embedding, given_embedding, given_face, given_track


def add_parser(commands) -> None:
    """Adds the command to an argparse collection of subcommands."""
    fit = commands.add_parser(
        "fit-style",
        help="how somebody moves, from a short capture, for `animate` and `edit --style`",
        description="Fits one vector of the animator to 3 to 30 seconds of voice and face of somebody whom training did not "
        "see. The last third is not fitted; the command says how the error falls there.",
    )
    fit.add_argument("--checkpoint", required=True, metavar="DIR", help="workdir of train.py with model.animator.num_subjects")
    fit.add_argument("--audio", required=True, metavar="FILE", help="the voice")
    fit.add_argument("--motion", required=True, metavar="FILE", help="the face: .npy of vertices [F, V, 3] in metres or flat")
    fit.add_argument("--template", required=True, metavar="FILE", help="the face at rest: .ply or .obj of the model's topology")
    fit.add_argument("--track", metavar="FILE", help="what the face feels, as diarize writes it (default: what is heard)")
    add_embedding(fit)
    fit.add_argument("--out", required=True, metavar="FILE", help=".npz")
    fit.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """fit-style: a capture to a style."""
    from pathlib import Path

    from sedtalker_jax.comparison_cli import read_panel
    from sedtalker_jax.inference.pipeline import SEDTalker
    from sedtalker_jax.inference.style import check_knows_subjects
    from sedtalker_jax.inference.style_fit import fit_style
    from sedtalker_jax.speech import load_audio

    target = check_output(arguments.out, (".npz",))
    check_distinct([target], (arguments.audio, arguments.motion, arguments.template, arguments.track, arguments.embedding))
    waveform = load_audio(arguments.audio)
    model = SEDTalker.load(arguments.checkpoint)
    with about(arguments.checkpoint):
        check_knows_subjects(model)
    face = given_face(arguments, model)
    panel, _ = read_panel("capture", Path(arguments.motion), arguments.template, None, model.fps)
    track = given_track(arguments, model, len(waveform))
    embedding = given_embedding(arguments, model)
    with about(arguments.motion):
        fit = fit_style(model, waveform, panel.vertices, face, track, given_embedding=embedding)
    fit.style.save(target)
    print(f"{target}: squared vertex error on the capture's last third {fit.before:.4f} -> {fit.after:.4f}")
