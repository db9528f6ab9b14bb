"""Scores a trained model, or files of motion that any system wrote.

    python evaluate.py --config=configs/demo.py --workdir=runs/demo
    python evaluate.py --predictions=ours=DIR --predictions=theirs=DIR --references=DIR --regions=regions/ --workdir=runs/peers

The first form calibrates on the validation split, scores the test split beside trivial baselines, and writes metrics.json,
report.html and an example recording into the workdir. The second compares directories of .npy motion clip by clip.
"""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Sequence

from absl import flags, logging
from ml_collections import config_flags

from sedtalker_jax.config_flag import experiment_config, run
from sedtalker_jax.errors import UserError

_CONFIG = config_flags.DEFINE_config_file("config", None, "Experiment that the workdir was trained with.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Directory of the trained model; results go there.")
_SPLIT = flags.DEFINE_enum("split", "test", ["valid", "test"], "Split to score.")
_MAX_CLIPS = flags.DEFINE_integer("max_clips", None, "Score only so many clips, spread over the split.", lower_bound=1)
_BASELINE_CLIPS = flags.DEFINE_integer(
    "baseline_clips", 600, "Training clips that the prosody baselines are fitted on; 0 leaves them out.", lower_bound=0
)
_PREDICTIONS = flags.DEFINE_multi_string("predictions", None, "Directory of motion, or NAME=DIRECTORY; may be repeated.")
_REFERENCES = flags.DEFINE_string("references", None, "Directory of true motion.")
_REGIONS = flags.DEFINE_string("regions", None, "Vertex sets: a regions folder, FLAME_masks.pkl or face_space.npz.")
_TEMPLATES = flags.DEFINE_string("templates", None, "templates.pkl, .npz, a mesh or a folder of meshes; without, no FDD.")
_NUM_VERTICES = flags.DEFINE_integer("num_vertices", None, "Of the mesh (default: the templates' or the first reference's).")
_BASIS = flags.DEFINE_string("basis", None, ".npz of blendshapes that turn files of weights, such as EmoTalk's, into vertices.")
_LIP_POINTS = flags.DEFINE_list("lip_points", None, "Vertices in the middle of the upper and lower lip: 3531,3504.")
_FPS = flags.DEFINE_float("fps", 30.0, "Frames per second of the predictions.")
_REFERENCE_FPS = flags.DEFINE_float("reference_fps", None, "Frames per second of the references, if different.")
_METRES_PER_UNIT = flags.DEFINE_float("metres_per_unit", 1.0, "Size of the files' unit of length.")


def main(_: Sequence[str]) -> None:
    # Orbax warns of metadata that only its own directory layouts have.
    logging.set_verbosity(logging.ERROR)
    try:
        if _WORKDIR.value is None:
            raise UserError("--workdir: name the directory that results go to")
        if _PREDICTIONS.value:
            _score_files()
        elif not _CONFIG.present:
            raise UserError("give --config for a trained model, or --predictions and --references for files of motion")
        else:
            from sedtalker_jax.inference.evaluation_run import evaluate

            evaluate(
                experiment_config(_CONFIG),
                pathlib.Path(_WORKDIR.value),
                split=_SPLIT.value,
                max_clips=_MAX_CLIPS.value,
                baseline_clips=_BASELINE_CLIPS.value,
            )
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def _score_files() -> None:
    from sedtalker_jax.evaluation.peer_report import evaluate_directories

    if not _REFERENCES.value or not _REGIONS.value:
        raise UserError("--predictions needs --references (true motion) and --regions (vertex sets)")
    scores = evaluate_directories(
        _PREDICTIONS.value,
        _REFERENCES.value,
        _REGIONS.value,
        _WORKDIR.value,
        num_vertices=_NUM_VERTICES.value,
        templates=_TEMPLATES.value,
        basis=_BASIS.value,
        lip_points=_lip_points(),
        fps=_FPS.value,
        reference_fps=_REFERENCE_FPS.value,
        metres_per_unit=_METRES_PER_UNIT.value,
    )
    print(scores.table.plain())


def _lip_points() -> tuple[int, int] | None:
    if _LIP_POINTS.value is None:
        return None
    try:
        upper, lower = map(int, _LIP_POINTS.value)
    except ValueError:
        raise UserError(f"--lip_points={','.join(_LIP_POINTS.value)}: two vertex numbers are expected") from None
    return upper, lower


if __name__ == "__main__":
    run(main)
