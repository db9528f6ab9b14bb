"""Leave-one-corpus-out: who is left out, that nothing of it is seen, and what the table says of it."""

import json

import numpy as np
import pytest

from sedtalker_jax.data import prepare, records
from sedtalker_jax.data.mixing import record_identity
from sedtalker_jax.evaluation.claims import left_out
from sedtalker_jax.evaluation.claims.areas import all_jobs
from sedtalker_jax.evaluation.claims.diarization_arms import arm_config
from sedtalker_jax.evaluation.claims.runner import select
from sedtalker_jax.evaluation.claims.scores import ArmScores
from sedtalker_jax.evaluation.claims.settings import Settings
from sedtalker_jax.training.checkpoint import read_meta
from sedtalker_jax.training.streams import streams_of
from tests.data.corpora import layouts


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    """Record directories of two corpora: the tree of SAVEE has seven emotions, that of RAVDESS neutral and angry."""
    root = tmp_path_factory.mktemp("corpora")
    for name in ("savee", "ravdess"):
        layouts.LAYOUTS[name](root / name)
        prepare.prepare(name, root / name, root / "records" / name, limit=36, progress=False)
    return root / "records"


def settings_of(directory, *paths):
    return Settings(directory, data=",".join(map(str, paths)), other_data="", seeds=(0, 1), smoke=True)


def unfinished(directory, name, **sizes):
    """A directory that only says how many records of each split it holds."""
    directory.mkdir()
    splits = {split: {"records": size} for split, size in sizes.items()}
    records.write_json(directory / records.MANIFEST, {"corpus": name, "splits": splits})
    return directory


def test_a_built_in_world_has_no_corpus_to_leave_out(tiny_world, tmp_path):
    assert left_out.jobs(settings_of(tmp_path, tiny_world)) == []


def test_a_corpus_stays_where_nothing_else_could_train_or_validate(tmp_path):
    whole = unfinished(tmp_path / "whole", "ravdess", train=5, valid=2, test=2)
    test_only = unfinished(tmp_path / "test", "zed", test=9)
    settings = settings_of(tmp_path, whole, test_only)
    assert left_out.corpora_to_leave_out(settings) == ("zed",)
    assert left_out.corpora_to_leave_out(settings_of(tmp_path, whole)) == ()
    # Two directories of one corpus are left out together.
    second = unfinished(tmp_path / "second", "ravdess", train=5, valid=2, test=2)
    assert left_out.corpora_to_leave_out(settings_of(tmp_path, whole, second)) == ()


def test_the_table_belongs_to_the_diarization_jobs(corpora, tmp_path):
    settings = settings_of(tmp_path, corpora / "savee", corpora / "ravdess")
    chosen = [job.name for job in select(all_jobs(settings), ["diarization"])]
    for seed in (0, 1):
        scored = chosen.index(f"seed{seed}/diarization/leave-one-corpus-out")
        needed = [f"seed{seed}/diarizer/{arm}" for arm in ("ours", "without-savee", "without-ravdess")]
        assert all(chosen.index(name) < scored for name in needed)
    alone = [job.name for job in select(all_jobs(settings), ["leave-one-corpus-out"])]
    assert "seed0/diarizer/window" not in alone and "seed0/diarization" not in alone


def test_a_corpus_is_scored_whole_by_a_model_that_saw_nothing_of_it(corpora, tmp_path):
    settings = settings_of(tmp_path, corpora / "savee", corpora / "ravdess")
    jobs = {job.name: job for job in left_out.jobs(settings)}
    trained = tmp_path / "seed0" / "diarizer"
    for corpus, other in (("savee", "ravdess"), ("ravdess", "savee")):
        assert arm_config(settings, "ours", 0, corpus).data.held_out == corpus
        (stream,) = streams_of(arm_config(settings, "ours", 0, corpus).data, arm_config(settings, "ours", 0).pipeline)
        assert stream.directories == (str(corpora / other),)
    (trained / "without-savee").mkdir(parents=True)
    jobs["seed0/diarizer/without-savee"].run(trained / "without-savee")
    assert read_meta(trained / "without-savee")[0]["records"] == [record_identity(corpora / "ravdess")]
    # One training is enough to try the scoring out.
    for name in ("ours", "without-ravdess"):
        (trained / name).symlink_to(trained / "without-savee")
    scoring = jobs["seed0/diarization/leave-one-corpus-out"]
    (tmp_path / scoring.name).mkdir(parents=True)
    scoring.run(tmp_path / scoring.name)

    place = tmp_path / "seed0" / "diarization" / "leave-one-corpus-out"
    table = json.loads((place / "tables" / "leave-one-corpus-out.json").read_text())
    assert [row[0] for row in table["rows"]] == ["savee", "ravdess"]
    rows = {row[0]: dict(zip(left_out.COLUMNS, row[1:], strict=True)) for row in table["rows"]}
    for corpus, row in rows.items():
        held = [r for split in ("train", "valid", "test") for r in records.RecordReader(corpora / corpus, split)]
        scores = ArmScores.load(place / "scores" / f"leave-one-corpus-out-{corpus}.json")
        assert set(scores.clips) == {r["id"] for r in held} and row["clips"] == len(held)
        assert row["voices"] == len({r["speaker"] for r in held})
        rates, seconds = (np.asarray(kind["emotion_diarization_error_rate"]) for kind in (scores.measures, scores.weights))
        assert row["EDER"] == pytest.approx(np.average(rates, weights=seconds))
        tested = np.isin(scores.clips, [r["id"] for r in held if r["split"] == "test"])
        assert row["EDER of its test split"] == pytest.approx(np.average(rates[tested], weights=seconds[tested]))
        gap = row["EDER of its test split"] - row["the same, the corpus in training"]
        assert row["difference"] == pytest.approx(gap, abs=1e-9)
    # Five of SAVEE's seven emotions, all as long and as frequent.
    assert rows["savee"]["share of emotions that the others lack"] == pytest.approx(5 / 7, abs=0.02)
    assert rows["ravdess"]["share of emotions that the others lack"] == 0.0
