"""The world's name and what it stands for. That the clips are the frozen ones is tested where a world is built."""

import copy
import json
import subprocess
import sys

import pytest

from sedtalker_jax.data.world import frozen
from sedtalker_jax.data.world.rules import load_rules, parse_rules
from sedtalker_jax.errors import UserError

RULES = load_rules("configs/world_rules.toml")

# Imported by the generating code, and without a say in what a clip is: containers, errors, file formats, the hash itself.
# Of the labels, the digest holds the order of the canonical ones.
_WITHOUT_A_SAY = {
    "sedtalker_jax.errors", "sedtalker_jax.data.records", "sedtalker_jax.data.world.frozen", "sedtalker_jax.emotion.decoding",
    "sedtalker_jax.emotion.editing", "sedtalker_jax.emotion.formats", "sedtalker_jax.emotion.keyframes",
    "sedtalker_jax.emotion.labels", "sedtalker_jax.emotion.pacing",
    "sedtalker_jax.emotion.schedule", "sedtalker_jax.emotion.shaping", "sedtalker_jax.emotion.track",
    "sedtalker_jax.face.template",
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(frozen.references()))
def test_the_running_code_is_the_frozen_one(name):
    """If this fails, generating code was edited: `python -m sedtalker_jax.data.world.frozen` tells whether it matters."""
    reference = frozen.references()[name]
    assert frozen.source_digest(reference["synthesiser"]) == reference["sources"]
    rules = load_rules(reference["rules"])
    assert (rules["name"], rules.synthesiser) == (name, reference["synthesiser"])
    assert rules.world_hash == reference["world_hash"]


def test_world_a_keeps_the_name_that_its_numbers_were_published_under():
    assert RULES.world_hash == "32def256e4116fc8"


@pytest.mark.parametrize("synthesiser", sorted(frozen.SYNTHESISERS))
def test_the_digest_covers_all_that_generating_code_imports(synthesiser):
    script = (
        "import sys; from sedtalker_jax.data.world import clip, synthesiser\n"
        f"synthesiser.load({synthesiser!r})\n"
        "print(*(name for name in sys.modules if name.startswith('sedtalker_jax.') and sys.modules[name].__file__))"
    )
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    covered = {"sedtalker_jax." + path.removesuffix(".py").replace("/", ".") for path in frozen.sources(synthesiser)}
    packages = {name for name in loaded if sys.modules.get(name) is not None and hasattr(sys.modules[name], "__path__")}
    packages |= {name for name in loaded if any(other.startswith(name + ".") for other in loaded)}
    assert set(loaded) - covered - packages <= _WITHOUT_A_SAY


def test_edited_code_is_a_generation_of_its_own(monkeypatch):
    monkeypatch.setattr(frozen, "source_digest", lambda synthesiser: "0" * 64)
    assert frozen.generation("espeak-ng") == "0" * 64
    assert RULES.world_hash != frozen.references()["world-a"]["world_hash"]


def test_a_digest_sees_code_and_no_comments(monkeypatch, tmp_path):
    (tmp_path / "one.py").write_text("x = 1\n\n# a remark\ny = 2\n")
    monkeypatch.setattr(frozen, "_PACKAGE", tmp_path)
    monkeypatch.setattr(frozen, "_COMMON", ("one.py",))
    monkeypatch.setattr(frozen, "SYNTHESISERS", {"none": ()})
    plain = frozen.source_digest.__wrapped__
    first = plain("none")
    (tmp_path / "one.py").write_text("x = 1\ny = 2\n")
    assert plain("none") == first
    (tmp_path / "one.py").write_text("x = 1\ny = 3\n")
    assert plain("none") != first


def test_differences_tell_rounding_from_another_clip():
    wanted = {"a": {"sha256": "1", "samples": 10, "segments": [[0.0, 1.0, "sad"]], "level_db": [-20.0], "motion_mm": [3.0]}}

    def changed(**change):
        return {"a": {**copy.deepcopy(wanted["a"]), "sha256": "2", **change}}

    assert frozen.differences(wanted, wanted) == ([], 0)
    assert frozen.differences(changed(level_db=[-20.01]), wanted) == ([], 1)
    for other in (changed(samples=11), changed(level_db=[-20.5]), changed(motion_mm=[3.5]), changed(segments=[]), {}):
        problems, _ = frozen.differences(other, wanted)
        assert len(problems) == 1 and "clip a" in problems[0]


def test_a_changed_clip_is_refused_and_nothing_written(monkeypatch, tmp_path):
    path = tmp_path / "frozen.json"
    monkeypatch.setattr(frozen, "REFERENCES", path)
    made = copy.deepcopy(frozen.references()["world-a"]["clips"])
    made["train-000003"].update(sha256="0" * 64, samples=1)
    known = frozen.references()
    monkeypatch.setattr(frozen, "references", lambda: known)
    monkeypatch.setattr(frozen, "clip_references", lambda directory: made)
    monkeypatch.setattr("sedtalker_jax.data.synthetic.build", lambda *_, **__: {})
    with pytest.raises(UserError, match="train-000003.*--renew"):
        frozen.freeze("configs/world_rules.toml")
    assert not path.exists()


def test_the_file_is_readable_line_by_line(monkeypatch, tmp_path):
    kept = frozen.REFERENCES.read_text()
    monkeypatch.setattr(frozen, "REFERENCES", tmp_path / "frozen.json")
    frozen._write(frozen.references())
    assert (tmp_path / "frozen.json").read_text() == kept
    assert json.loads(kept) == frozen.references()
    assert sum('"sha256"' in line for line in kept.splitlines()) == kept.count('"sha256"')


def test_an_unknown_synthesiser_is_named():
    with pytest.raises(UserError, match="my.toml.*mbrola.*espeak-ng, flite"):
        parse_rules('synthesiser = "mbrola"\n' + RULES.text, "my.toml")
