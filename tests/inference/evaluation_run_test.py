"""Whole evaluations of a checkpoint: on the records that it was trained on, and on others, to which nothing may be fitted."""

import json
import pathlib
import shutil

import pytest

from configs import demo
from sedtalker_jax.data import records
from sedtalker_jax.data.mixing import record_identity
from sedtalker_jax.errors import UserError
from sedtalker_jax.inference.evaluation_run import evaluate, results_on, trained_on

pytest.importorskip("espeakng_loader", reason="the world speaks with espeakng-loader (requirements-world.txt)")


def as_corpus(source, directory, name, test_split):
    """A world's records under the manifest of a recorded corpus, which has no world hash; scores are of `test_split`."""
    directory.mkdir()
    manifest = records.read_manifest(source)
    for path in source.iterdir():
        if path.name != records.MANIFEST:
            (directory / path.name).symlink_to(path)
    for key in ("world", "world_hash", "subset", "size"):
        del manifest[key]
    splits = {**manifest["splits"], "test": manifest["splits"][test_split]}
    records.write_json(directory / records.MANIFEST, {**manifest, "corpus": name, "listing": name, "splits": splits})
    return directory


def retrained_on(workdir, directory):
    """The same checkpoint, as if another directory had been its training data."""
    for metadata in workdir.glob("checkpoints/*/meta/metadata"):
        meta = json.loads(metadata.read_text())
        metadata.write_text(json.dumps({**meta, "world_hash": "", "records": [record_identity(directory)]}))


def score(directory, workdir):
    config = demo.get_config("smoke")
    with config.unlocked():
        config.data.directory = str(directory)
    return evaluate(config, workdir, max_clips=2, baseline_clips=6)


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
    assert "Not evaluated." not in (workdir / "MODEL_CARD.md").read_text()
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
