"""Whole evaluations of a checkpoint: on the world that it was trained on, and on another, to which nothing may be fitted."""

import json
import shutil

import pytest

from configs import demo
from sedtalker_jax.data import records, synthetic
from sedtalker_jax.data.world.rules import load_rules, parse_rules
from sedtalker_jax.errors import UserError
from sedtalker_jax.inference.evaluation_run import evaluate

pytest.importorskip("espeakng_loader", reason="the world speaks with espeakng-loader (requirements-world.txt)")


@pytest.fixture(scope="module")
def other_world(tmp_path_factory):
    """A world of other seeds, so other voices, sentences and heads."""
    text = load_rules("configs/world_rules.toml").text
    for old, new in (('name = "world-a"', 'name = "world-other"'), ("seed = 20260701", "seed = 20260799")):
        assert old in text
        text = text.replace(old, new)
    out = tmp_path_factory.mktemp("other") / "records"
    synthetic.build(parse_rules(text), out, "tiny", workers=2, progress=False)
    return out


def score(directory, workdir):
    config = demo.get_config("smoke")
    with config.unlocked():
        config.data.directory = str(directory)
    return evaluate(config, workdir, max_clips=2, baseline_clips=6)


def contents(directory):
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_nothing_is_fitted_to_another_world(smoke_checkpoint, tiny_world, other_world, tmp_path, capsys):
    workdir = tmp_path / "run"
    shutil.copytree(smoke_checkpoint, workdir)
    with pytest.raises(UserError, match="no calibration.json yet"):
        score(other_world, workdir)

    score(tiny_world, workdir)
    hashes = [records.read_manifest(directory)["world_hash"] for directory in (tiny_world, other_world)]
    own = json.loads((workdir / "metrics.json").read_text())
    assert (own["info"]["world_hash"], own["info"]["trained_on"]) == (hashes[0], hashes[0])
    temperature = json.loads((workdir / "calibration.json").read_text())["temperature"]
    before = contents(workdir)
    capsys.readouterr()

    tables = score(other_world, workdir)
    after = contents(workdir)
    assert {name: data for name, data in after.items() if not name.startswith("on-")} == before
    there = json.loads((workdir / "on-world-other" / "metrics.json").read_text())
    assert (there["info"]["world_hash"], there["info"]["trained_on"]) == (hashes[1], hashes[0])
    assert there["info"]["temperature"] == round(temperature, 4)
    assert not {"on-world-other/calibration.json", "on-world-other/edit_dictionary.npz"} & set(after)
    printed = capsys.readouterr().out
    assert all(name in printed for name in hashes)
    assert there["animation"] != own["animation"] and set(there["animation"]) == set(own["animation"])
    assert set(tables) == {name for name in there if name != "info"}
