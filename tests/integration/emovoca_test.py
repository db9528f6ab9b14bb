"""EmoVOCA's path on files laid out exactly as EmoVOCA's: prepare, train.py, evaluate.py."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from configs.world_experiment import LABELS
from sedtalker_jax.data.cross_fade import FadeConfig
from sedtalker_jax.data.face_codec import FaceCodec
from sedtalker_jax.data.pipeline import PipelineConfig
from sedtalker_jax.training.streams import Stream
from tests.data.faces import trees

CONFIG = """
from configs import world_experiment


def get_config(arg=""):
    config = world_experiment.base()
    world_experiment.apply_variant(config, "smoke")
    config.num_steps = config.eval_every = config.checkpoint.every_steps = 2
    config.data.directory = ""
    config.data.face = {records!r}
    config.model.diarizer = None  # the voice is neutral: there is nothing to hear
    config.model.animator.backbone.update(pattern="A", scan_implementation="reference")
    config.pipeline.update(max_seconds=1.0, bucket_seconds=(1.0,))
    config.pipeline.cross_fade = dict(share=1.0, margin=0.3)
    return config.lock()
"""


def run(*command):
    environment = dict(os.environ, JAX_PLATFORMS="cpu")
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def mesh(request):
    """The published meshes where they are at hand, else one of their counts: the path is the same."""
    try:
        return request.getfixturevalue("samples")
    except pytest.skip.Exception:
        return None


def _assert_faces_change(records, workdir):
    """The batches of that run hold faces whose emotion moves."""
    pipeline = PipelineConfig(
        batch_size=4,
        max_seconds=1.0,
        bucket_seconds=(1.0,),
        track_shares=(1.0, 0.0, 0.0),
        cross_fade=FadeConfig(1.0, margin=0.3),
    )
    stream = Stream(("face",), (str(records),), pipeline)
    changes = [
        np.ptp(batch["face"]["activation"][row, :frames], axis=0).max()
        for batch in stream.train_batches(FaceCodec.load(workdir), LABELS, 0, 3)
        for row, frames in enumerate(batch["face"]["num_frames"])
    ]
    assert min(changes) > 0.2


def test_from_official_files_to_scores(mesh, tmp_path):
    root = trees.write_emovoca(tmp_path / "Dataset", mesh, expressions=("Smile2",))
    masks = {"lips": range(3300, 3554), "eye_region": range(100, 851), "forehead": range(900, 1033)}
    trees.write_old_pickle(root / "EmoVOCA" / "FLAME_masks.pkl", {name: list(indices) for name, indices in masks.items()})
    out = tmp_path / "records"
    options = ("--option", "fps=30", "--workers", "2", "--quiet")
    said = run("-m", "sedtalker_jax", "prepare", "--corpus", "emovoca", "--root", str(root), "--out", str(out), *options)
    assert "train 12, valid 6, test 6 clips" in said
    (tmp_path / "config.py").write_text(CONFIG.format(records=str(out)))
    arguments = (f"--config={tmp_path / 'config.py'}", f"--workdir={tmp_path / 'run'}")
    planned = run("train.py", *arguments)
    # Every recording has two levels of one expression, and VOCASET's neutral face.
    assert "12 of 12 faces can go from one expression to another" in planned
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["train/loss/total"] for line in lines if "train/loss/total" in line]
    assert len(losses) == 2 and all(0 < loss < 100 for loss in losses)
    run("evaluate.py", *arguments, "--max_clips=2")
    _assert_faces_change(out, tmp_path / "run")
    scores = (tmp_path / "run" / "metrics.json").read_text()
    assert "lip_vertex_error_mm2" in scores and "NaN" not in scores
