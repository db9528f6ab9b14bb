"""Scores a trained model: python evaluate.py --config=configs/demo.py --workdir=runs/demo

Calibrates on the validation split, scores the test split beside trivial baselines, and writes metrics.json, report.html and
an example recording into the workdir.
"""

from __future__ import annotations

import pathlib
import sys

from absl import app, flags
from ml_collections import config_flags

from sedtalker_jax.errors import UserError

_CONFIG = config_flags.DEFINE_config_file("config", None, "Experiment that the workdir was trained with.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Directory of the trained model.")
_SPLIT = flags.DEFINE_enum("split", "test", ["valid", "test"], "Split to score.")
_MAX_CLIPS = flags.DEFINE_integer("max_clips", None, "Score only the first clips of the split.")
_BASELINE_CLIPS = flags.DEFINE_integer("baseline_clips", 600, "Training clips that the prosody baselines are fitted on.")
flags.mark_flags_as_required(["config", "workdir"])


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    from sedtalker_jax.inference.evaluation_run import evaluate

    try:
        evaluate(
            _CONFIG.value,
            pathlib.Path(_WORKDIR.value),
            split=_SPLIT.value,
            max_clips=_MAX_CLIPS.value,
            baseline_clips=_BASELINE_CLIPS.value,
        )
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    app.run(main)
