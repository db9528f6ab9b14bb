"""From the files of recorded corpora to scores: prepare, train.py, evaluate.py, with voices and faces of different corpora."""

import json
import subprocess
import sys

import numpy as np
import pytest

from sedtalker_jax.data.given_embeddings import write_given_embeddings
from sedtalker_jax.data.mixing import every_record
from sedtalker_jax.inference.pipeline import SEDTalker
from tests.data.corpora import layouts
from tests.data.faces import trees


def run(*command):
    done = subprocess.run([sys.executable, *map(str, command)], capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    root = tmp_path_factory.mktemp("corpora")
    layouts.ravdess(root / "ravdess")
    (root / "crema_d").mkdir()
    layouts.crema_d(root / "crema_d")
    trees.write_emovoca(root / "emovoca", expressions=("Smile2",), levels=(1, 3))
    for corpus in ("ravdess", "crema_d", "emovoca"):
        out = root / "records" / corpus
        run("-m", "sedtalker_jax", "prepare", "--corpus", corpus, "--root", root / corpus, "--out", out, "--workers", 1)
    return root / "records"


@pytest.mark.parametrize(
    ("config", "voices", "faces", "sections"),
    [
        ("sedtalker", True, True, {"emotion", "animation"}),
        ("editemotalk", True, True, {"emotion", "animation"}),
        ("diarizer", True, False, {"emotion"}),
        ("animator", False, True, {"animation"}),
    ],
)
def test_prepared_records_train_and_are_scored(records, tmp_path, config, voices, faces, sections):
    flags = [f"--config=configs/{config}.py:smoke", f"--workdir={tmp_path}"]
    flags += [f"--config.data.speech={records / 'ravdess'}"] if voices and faces else []
    if voices and not faces:
        # Leave-one-corpus-out: whatever CREMA-D holds is scored, and nothing of it is trained on.
        flags += [f"--config.data.speech={records / 'ravdess'},{records / 'crema_d'}", "--config.data.held_out=crema_d"]
    flags += [f"--config.data.face={records / 'emovoca'}"] if faces else []
    run("train.py", *flags)
    # Of CREMA-D all that is there: listeners agreed on some clips only.
    run("evaluate.py", *flags, f"--max_clips={200 if voices and not faces else 2}", "--baseline_clips=4")
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert sections <= set(metrics)
    assert ("emotion" in metrics, "animation" in metrics) == (voices, faces)
    card = (tmp_path / "MODEL_CARD.md").read_text()
    assert "Not evaluated." not in card and ("| ravdess | CC-BY-NC-SA-4.0" in card) == voices and "| crema_d" not in card
    if voices and not faces:
        assert metrics["info"]["held_out"] == "crema_d" and "intended_and_perceived" in metrics
    assert SEDTalker.load(tmp_path).subjects == (tuple(sorted(trees.TRAIN)) if faces else ())
    logged = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    terms = {name for line in logged for name in line}
    edited = config == "editemotalk"
    assert ("train/loss/consistency" in terms) == (tmp_path / "emotion_reader.npz").exists() == edited
    assert ("train/loss/levels" in terms) == voices and ("train/loss/lips" in terms) == faces


@pytest.fixture(scope="module")
def talking_heads(tmp_path_factory):
    """Records of 3D-RAVDESS, whose voices and faces are of the same clips and whose emotions have two levels."""
    root = tmp_path_factory.mktemp("3d")
    stems = [f"03-01-{e}-{level}-01-01-{actor}" for e in ("03", "05") for level in ("01", "02") for actor in (11, 12, 21, 23)]
    trees.write_parameters(root / "3d_ravdess", stems, fps=30.0)
    flame, out = trees.write_flame(root / "FLAME", 120), root / "records"
    trees.write_regions(flame / "regions", 120)
    command = ["prepare", "--corpus", "3d_ravdess", "--root", root / "3d_ravdess", "--out", out, "--option", f"flame={flame}"]
    run("-m", "sedtalker_jax", *command, "--workers", 1)
    return out


def test_clips_with_voice_and_face_teach_intensity_too(talking_heads, tmp_path):
    flags = ["--config=configs/sedtalker.py:smoke", f"--config.data.directory={talking_heads}"]
    # Nobody says where the lips of this mesh meet.
    flags += ["--config.data.speech=", "--config.data.face=", "--config.loss.lip_closure=0.0"]
    run("train.py", *flags, f"--workdir={tmp_path / 'run'}")
    logged = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert {"train/loss/levels", "valid/levels", "train/loss/lips"} <= {name for line in logged for name in line}
    command = [sys.executable, "train.py", *flags, f"--workdir={tmp_path / 'other'}", "--config.pipeline.levels=False"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and "set pipeline.levels=True" in done.stderr.strip().splitlines()[-1]


def test_given_embeddings_train_are_scored_and_animate(records, tmp_path):
    rng, size = np.random.default_rng(0), 12
    clips = [record["id"] for record in every_record([records / "ravdess", records / "emovoca"])]
    write_given_embeddings(tmp_path / "vectors.npz", {clip: rng.normal(size=size) for clip in clips})
    np.save(tmp_path / "voice.npy", rng.normal(size=size))
    workdir = tmp_path / "run"
    flags = ["--config=configs/editemotalk.py:paper,smoke", f"--workdir={workdir}"]
    flags += [f"--config.data.speech={records / 'ravdess'}", f"--config.data.face={records / 'emovoca'}"]
    flags += [f"--config.pipeline.embeddings={tmp_path / 'vectors.npz'}"]
    run("train.py", *flags)
    run("evaluate.py", *flags, "--max_clips=2", "--baseline_clips=4")
    metrics = json.loads((workdir / "metrics.json").read_text())
    assert {"emotion", "animation"} <= set(metrics) and metrics["info"]["embeddings"].endswith("vectors.npz")
    assert "given embeddings of 12 numbers, vectors.npz" in (workdir / "MODEL_CARD.md").read_text()
    model = SEDTalker.load(workdir)
    # One encoder alone, for the words; of the diarizer a linear map and the heads.
    assert set(model.params) == {"diarizer", "content_encoder", "content_layers", "animator"}
    assert model.params["diarizer"]["embed"]["kernel"].shape[0] == size
    speech = next((records.parent / "ravdess").rglob("03-01-05-01-*.wav"))
    talk = tmp_path / "talk.npy"
    run("-m", "sedtalker_jax", "animate", speech, "--checkpoint", workdir, "--embedding", tmp_path / "voice.npy", "--out", talk)
    assert np.isfinite(np.load(talk)).all()
