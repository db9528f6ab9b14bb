import dataclasses
import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from sedtalker_jax.data.world import calibration, report
from sedtalker_jax.data.world.clip import World, plan_clip, speak
from sedtalker_jax.data.world.rules import load_rules
from sedtalker_jax.errors import UserError

RULES = load_rules("configs/world_rules.toml")


VOICES = 32


def rows(separation, num_voices=VOICES, seed=0):
    """What single_emotion_statistics would return if the classes lay `separation` standard deviations apart."""
    rng = np.random.default_rng(seed)
    centres = separation * rng.standard_normal((8, 7))
    voices = 10.0 * rng.standard_normal((num_voices, 7))

    def map_clips(function, jobs, title=None):
        for (index,) in jobs:
            label, voice = index // num_voices % 8, index % num_voices
            yield centres[label] + voices[voice] + rng.standard_normal(7), f"voice {voice}", label, centres[label]

    return map_clips


def test_the_observer_knows_clear_classes_and_guesses_at_noise():
    clear = calibration.ideal_observer(rows(3.0), VOICES, takes=1, trees=30)
    noise = calibration.ideal_observer(rows(0.0), VOICES, takes=1, trees=30)
    assert clear.accuracy > 0.9 and clear.interval[0] > 0.85
    assert clear.accuracy > clear.without_voice + 0.1, "normalising by voice must help where voices differ"
    assert clear.true_parameters > 0.95
    assert abs(noise.accuracy - 0.125) < 0.08
    assert clear.confusion.sum() == clear.num_clips == 8 * VOICES and clear.num_voices == VOICES
    assert min(clear.recall.values()) > 0.7
    assert np.mean(list(clear.recall.values())) == pytest.approx(clear.accuracy)  # the classes are balanced


def test_the_join_test_finds_a_planted_sign_and_nothing_else():
    rng = np.random.default_rng(0)
    changed = rng.random(400) < 0.5
    features = rng.standard_normal((400, 20)).astype(np.float32)
    voices = [f"voice {i % 10}" for i in range(400)]
    blind = calibration.join_detectability(list(zip(features, changed, voices, strict=True)), trees=40)
    assert abs(blind["balanced_accuracy"] - 0.5) < 0.08
    features[:, 3] += 3.0 * changed
    seen = calibration.join_detectability(list(zip(features, changed, voices, strict=True)), trees=40)
    assert seen["balanced_accuracy"] > 0.85
    assert seen["joins"] == 400
    two_voices = [(row, flag, f"voice {i % 2}") for i, (row, flag) in enumerate(zip(features, changed, strict=True))]
    assert calibration.join_detectability(two_voices, trees=40)["balanced_accuracy"] > 0.8
    for few in ([], two_voices[:1], two_voices[::2], [row for row in two_voices if row[1]]):
        with pytest.raises(UserError, match=f"{len(few)} joins are too few.*--clips"):
            calibration.join_detectability(few)


def test_calibration_rules_change_only_what_they_must():
    own = calibration.calibration_rules(RULES, full_intensity=True)
    assert own["timeline"]["intensity"] == [1.0, 1.0]
    assert RULES["timeline"]["intensity"] != [1.0, 1.0] and calibration.SUBSET not in RULES["subsets"]
    assert own["expression"] == RULES["expression"]


def only_tiny(train_voices):
    """World A's rules with no other subset than the smallest, and that one with so many training voices."""
    tiny = RULES["subsets"]["tiny"]
    tiny = {**tiny, "voices": {**tiny["voices"], "train": train_voices}}
    return dataclasses.replace(RULES, table={**RULES.table, "subsets": {"tiny": tiny}})


def test_calibration_takes_96_training_voices_or_what_there_is():
    assert calibration.calibration_rules(RULES)["subsets"][calibration.SUBSET]["voices"]["train"] == 96
    assert calibration.calibration_rules(only_tiny(3))["subsets"][calibration.SUBSET]["voices"]["train"] == 3
    with pytest.raises(UserError, match="two training voices"):
        calibration.calibration_rules(only_tiny(1))
    few = calibration.ideal_observer(rows(3.0, 3), 3, takes=8, trees=10)
    assert (few.num_voices, few.num_clips) == (3, 3 * 8 * 8)


def test_every_training_voice_says_every_emotion_once_a_take(monkeypatch):
    said = Counter()

    class PlannedError(Exception):
        """Who says what is known; the saying is not needed."""

    def plan(world, split, index, single_label):
        said[plan_clip(world, split, index, single_label).voice.name, single_label] += 1
        raise PlannedError

    monkeypatch.setattr(calibration, "plan_clip", plan)
    world = World(calibration.calibration_rules(only_tiny(5)), calibration.SUBSET)
    for index in range(2 * 5 * 8):
        with pytest.raises(PlannedError):
            calibration.single_emotion_statistics(world, index)
    assert len(said) == 5 * 8 and set(said.values()) == {2}
    assert all(voice.startswith("train-") for voice, _ in said)


def test_measures_of_real_clips():
    pytest.importorskip("espeakng_loader", reason="the world speaks with espeakng-loader (requirements-world.txt)")
    world = World(calibration.calibration_rules(RULES), calibration.SUBSET)
    try:
        statistics, voice, label, _ = calibration.single_emotion_statistics(world, 96 * 3)
        assert label == 3 and voice.startswith("train-") and np.isfinite(statistics).all()
        for index in range(10):
            windows = calibration.join_windows(world, "train", index)
            plan = plan_clip(world, "train", index)
            assert [w[1] for w in windows] == list(plan.timeline.changes)
            for features, _, _ in windows:
                # 100 ms in windows of 20 ms by 10 ms, 16 bands, each band without its mean.
                assert features.shape == (9 * 16,)
                np.testing.assert_allclose(features.reshape(9, 16).mean(axis=0), 0.0, atol=1e-4)
        residual = calibration.additive_residual(world, 0)
        assert residual["mouth"] > 0.10
        summary = report.clip_summary(world, "train", 0)
        assert sum(summary["frames"]) > 50 and summary["duration_s"] > 1.5
        loud = speak(world, plan_clip(world, "train", 1, single_label=1), distort=False)
        soft = speak(world, plan_clip(world, "train", 1, single_label=5), distort=False)
        assert np.sqrt(np.mean(loud.waveform**2)) > 1.5 * np.sqrt(np.mean(soft.waveform**2))
    finally:
        world.close()


def test_the_report_of_a_second_rules_file_holds_all_numbers(tmp_path, capsys):
    """From the command line, of a small world with numbers of its own."""
    pytest.importorskip("espeakng_loader", reason="the world speaks with espeakng-loader (requirements-world.txt)")
    text = RULES.text.replace("seed = 20260701", "seed = 5").replace('name = "world-a"', 'name = "world-small"')
    start, end = text.index("[subsets.demo]"), text.index("[subsets.tiny]")
    path = tmp_path / "rules.toml"
    path.write_text(text[:start] + text[end:])
    out = tmp_path / "report"
    arguments = ["--rules", str(path), "--out", str(out), "--takes", "1", "--clips", "12", "--videos", "0", "--quiet"]
    assert report.main(arguments) == 0
    numbers = json.loads((out / "report.json").read_text())
    written = (out / "report.md").read_text()
    assert written.strip() in capsys.readouterr().out
    assert numbers["world"] == "world-small" and numbers["world_hash"] != RULES.world_hash
    assert numbers["world_hash"] in written and "32 clips of 4 training voices" in written
    for observer in numbers["ideal_observer"].values():
        assert (observer["num_voices"], observer["num_clips"]) == (4, 32)
        assert observer["interval"][0] <= observer["accuracy"] <= observer["interval"][1]
        assert sum(map(sum, observer["confusion"])) == 32 and sum(observer["importance"].values()) == pytest.approx(1.0)
    assert numbers["ideal_observer"]["full"]["true_parameters"] > 0.5
    assert numbers["joins"]["joins"] >= 4 and 0.0 <= numbers["joins"]["balanced_accuracy"] <= 1.0
    assert numbers["additive_residual"]["mouth"] > 0.10
    # Processor time counts the synthesiser's own process, and a record costs more than its sound.
    assert 1000 > numbers["speed"]["sound"] > numbers["speed"]["whole"] > 1
    assert sum(numbers["clips"]["label_share"].values()) == pytest.approx(1.0)
    assert 1.5 < numbers["clips"]["mean_duration_s"] < 8.0
    for name in ("histograms.png", "confusion.png"):
        assert min(Image.open(out / name).size) > 300


def test_a_report_that_cannot_be_written_is_one_line(capsys):
    assert report.main(["--out", "/proc/none", "--quiet"]) == 2
    message = capsys.readouterr().err
    assert "/proc/none" in message and message.count("\n") == 1
