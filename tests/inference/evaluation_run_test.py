"""Whole evaluations of a checkpoint: on the records that it was trained on, and on others, to which nothing may be fitted."""

import json
import pathlib
import shutil
import types

import pytest

from configs import demo
from sedtalker_jax.data import records
from sedtalker_jax.data.mixing import record_identity
from sedtalker_jax.errors import UserError
from sedtalker_jax.inference import evaluation_run
from sedtalker_jax.inference.evaluation_run import evaluate, results_on, trained_on
from sedtalker_jax.inference.scoring import Predictions
from tests.data.toy_records import ToyReader, clip

pytest.importorskip("espeakng_loader", reason="the world speaks with espeakng-loader (requirements-world.txt)")


def as_corpus(source, directory, name, test_split, *, lacking=()):
    """A world's records under the manifest of a recorded corpus, which has no world hash; scores are of `test_split`.

    Of the splits that are lacking it has no records.
    """
    directory.mkdir()
    manifest = records.read_manifest(source)
    for path in source.iterdir():
        if path.name != records.MANIFEST:
            (directory / path.name).symlink_to(path)
    for key in ("world", "world_hash", "subset", "size"):
        del manifest[key]
    splits = {**manifest["splits"], "test": manifest["splits"][test_split]}
    splits |= {split: {"shards": [], "records": 0} for split in lacking}
    records.write_json(directory / records.MANIFEST, {**manifest, "corpus": name, "listing": name, "splits": splits})
    return directory


def retrained_on(workdir, directory):
    """The same checkpoint, as if another directory had been its training data."""
    for metadata in workdir.glob("checkpoints/*/meta/metadata"):
        meta = json.loads(metadata.read_text())
        metadata.write_text(json.dumps({**meta, "world_hash": "", "records": [record_identity(directory)]}))


def score(directory, workdir, *, max_clips=2, baseline_clips=6, **fields):
    config = demo.get_config("smoke")
    with config.unlocked():
        config.data.directory = str(directory)
        config.update_from_flattened_dict(fields)
    return evaluate(config, workdir, max_clips=max_clips, baseline_clips=baseline_clips)


def contents(directory):
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_nothing_is_fitted_to_another_corpus(smoke_checkpoint, tiny_world, tmp_path, capsys):
    workdir = tmp_path / "run"
    shutil.copytree(smoke_checkpoint, workdir)
    own = as_corpus(tiny_world, tmp_path / "own", "mine", "test")
    other = as_corpus(tiny_world, tmp_path / "other", "theirs", "valid")
    with pytest.raises(UserError, match="no calibration.json yet"):
        score(other, workdir)
    retrained_on(workdir, own)

    score(own, workdir)
    mine = json.loads((workdir / "metrics.json").read_text())
    assert mine["info"]["records"] == mine["info"]["trained_on"] == record_identity(own)
    card = (workdir / "MODEL_CARD.md").read_text()
    assert "Of the test split, 2 of 4 clips and the faces of the test split, 2 of 4 clips.\n" in card
    temperature = json.loads((workdir / "calibration.json").read_text())["temperature"]
    before = contents(workdir)
    capsys.readouterr()

    tables = score(other, workdir)
    after = contents(workdir)
    assert {name: data for name, data in after.items() if not name.startswith("on-")} == before
    results = results_on(workdir, [other])
    there = json.loads((results / "metrics.json").read_text())
    assert (there["info"]["records"], there["info"]["trained_on"]) == (record_identity(other), record_identity(own))
    assert there["info"]["temperature"] == round(temperature, 4)
    written = {name.removeprefix(f"{results.name}/") for name in after if name.startswith(f"{results.name}/")}
    assert not {"calibration.json", "edit_dictionary.npz", "MODEL_CARD.md"} & written
    assert {"metrics.json", "report.html", "plots/confusion.png", "plots/f1_by_emotion.png"} <= written
    printed = capsys.readouterr().out
    assert record_identity(own) in printed and record_identity(other) in printed
    assert there["animation"] != mine["animation"] and set(there["animation"]) == set(mine["animation"])
    assert set(tables) == {name for name in there if name != "info"}


@pytest.fixture
def workdir(smoke_checkpoint, tmp_path):
    return shutil.copytree(smoke_checkpoint, tmp_path / "run")


def test_a_corpus_to_test_on_needs_no_other_split(workdir, tiny_world, tmp_path, capsys):
    corpus = as_corpus(tiny_world, tmp_path / "zed", "zed", "test", lacking=("train", "valid"))
    retrained_on(workdir, corpus)
    tables = score(corpus, workdir, max_clips=None)
    assert tables["emotion"]["frame_accuracy"]["systems"].keys() == {"model"} and "emotion_differences" not in tables
    assert json.loads((workdir / "calibration.json").read_text()) == {"temperature": 1.0}
    printed = capsys.readouterr().out
    assert "no labelled frame of a validation split" in printed and "edit_dictionary.npz not written" in printed
    card = (workdir / "MODEL_CARD.md").read_text()
    assert "Of the test split, all 4 clips and the faces of the test split, all 4 clips.\n" in card
    empty = as_corpus(tiny_world, tmp_path / "empty", "empty", "test", lacking=("test",))
    with pytest.raises(UserError, match="empty: no records of the test split"):
        score(empty, workdir)


def test_few_clips_of_a_corpus_that_was_held_out_are_spread_over_it(workdir, tiny_world, tmp_path, monkeypatch):
    mine, theirs = (as_corpus(tiny_world, tmp_path / name, name, "test") for name in ("mine", "theirs"))
    retrained_on(workdir, mine)
    read, heard = [], []
    plain = records.RecordReader.__getitem__

    def reading(reader, index):
        record = plain(reader, index)
        read.append(record["id"])
        return record

    def predicting(model, clips, title):
        if title == "diarize test":
            heard.extend(record["id"] for record in clips)
            read.append("diarize")
        return plain_predict(model, clips, title)

    plain_predict = evaluation_run.predict
    monkeypatch.setattr(records.RecordReader, "__getitem__", reading)
    monkeypatch.setattr(evaluation_run, "predict", predicting)
    fields = {"data.speech": f"{mine},{theirs}", "data.held_out": "theirs"}
    tables = score("", workdir, baseline_clips=0, **fields)
    # The first and the last of four clips to test on, twelve to train on and four to validate on.
    assert heard == ["test-000000", "valid-000003"]
    assert read[read.index("diarize") - 2 : read.index("diarize")] == heard
    assert json.loads((workdir / "metrics.json").read_text())["info"]["scored"] == "theirs, 2 of 20 clips"
    # And without the forests.
    assert set(tables["emotion"]["frame_accuracy"]["systems"]) == {"model", "majority", "training shares"}


def test_faces_that_the_labels_cannot_name_are_not_scored():
    made = [clip(i, "ann", "neutral", 1.0, expression=name) for i, name in enumerate(("happy", "sad", "", "sad", "neutral"))]
    labels = ("neutral", "happy")
    alone = evaluation_run._faces_to_score(ToyReader(made), labels, None, None)
    assert [(record["id"], track) for record, track in alone] == [("toy-0", None), ("toy-2", None), ("toy-4", None)]
    few = evaluation_run._faces_to_score(ToyReader(made), labels, 2, None)
    assert [record["id"] for record, _ in few] == ["toy-0", "toy-4"]
    heard = Predictions(made, [], list("abcde"))
    shared = evaluation_run._faces_to_score(ToyReader(made), labels, None, heard)
    assert [(record["id"], track) for record, track in shared] == [("toy-0", "a"), ("toy-2", "c"), ("toy-4", "e")]


def test_a_voice_that_does_not_tell_drives_no_face():
    model = types.SimpleNamespace(model=types.SimpleNamespace(config=types.SimpleNamespace(diarizer="one")))
    told, untold = ({"condition": condition, "waveform": None} for condition in ("voice", "schedule"))
    assert evaluation_run._heard(model, told, "track") == "track" and evaluation_run._heard(model, untold, "track") is None


def test_an_edit_dictionary_stays_until_its_successor_is_whole(tiny_world, tmp_path, monkeypatch):
    old = tmp_path / evaluation_run.EDIT_DICTIONARY

    def fit(error):
        def raising(*_, **__):
            raise error

        old.write_text("old")
        monkeypatch.setattr(evaluation_run, "fit_edit_dictionary", raising)
        evaluation_run._save_edit_dictionary(None, [str(tiny_world)], [], "", tmp_path)

    with pytest.raises(KeyboardInterrupt):
        fit(KeyboardInterrupt())
    assert old.read_text() == "old"
    # It would edit the embedding of another checkpoint.
    fit(UserError("too few segments"))
    assert not old.exists()


def test_configs_that_do_not_fit_are_refused(workdir, tiny_world, monkeypatch):
    with pytest.raises(UserError, match="config: bucket_seconds.* must rise and end at max_seconds=6"):
        score(tiny_world, workdir, **{"pipeline.max_seconds": 6.0})
    with pytest.raises(UserError, match="config: config.data names no records"):
        score("", workdir)
    model = evaluation_run.SEDTalker.load(workdir)
    monkeypatch.setattr(evaluation_run.SEDTalker, "load", lambda workdir: model)
    model.codec = None
    with pytest.raises(UserError, match="holds a diarizer alone, .* give data.speech"):
        score("", workdir, **{"data.face": str(tiny_world)})


def test_a_checkpoint_knows_its_records_wherever_they_lie(smoke_checkpoint, tiny_world, tmp_path):
    meta = json.loads(next(pathlib.Path(smoke_checkpoint).glob("checkpoints/*/meta/metadata")).read_text())
    moved = tmp_path / "moved"
    moved.mkdir()
    shutil.copy(tiny_world / records.MANIFEST, moved)
    corpus = as_corpus(tiny_world, tmp_path / "corpus", "mine", "test")
    assert trained_on(meta, [str(tiny_world)]) and trained_on(meta, [str(moved)])
    both = {"records": [record_identity(corpus), record_identity(moved)]}
    assert trained_on(both, [moved, corpus])
    assert not trained_on(both, [moved]), "a part would leave the rest out of temperature and card"
    assert not trained_on(meta, [moved, corpus])
    with pytest.raises(UserError, match="train it again"):
        trained_on({}, [moved])


def test_data_sets_of_one_name_have_results_of_their_own(tmp_path):
    def records_of(place, **choices):
        (tmp_path / place).mkdir()
        records.write_json(tmp_path / place / records.MANIFEST, {"corpus": "mine", "splits": {}, **choices})
        return tmp_path / place

    first, second, copy = records_of("a", fold=1), records_of("b", fold=2), records_of("c", fold=1)
    other = records_of("d", corpus="theirs")
    places = [results_on(tmp_path, given) for given in ([first], [second], [other], [first, other], [second, other])]
    assert len(set(places)) == 5
    assert results_on(tmp_path, [copy]) == places[0], "the same records elsewhere"
    assert all(place.name.startswith("on-mine-") for place in places if place != places[2])
