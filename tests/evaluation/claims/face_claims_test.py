"""Probes, head classifier and jobs of the claims about faces."""

import numpy as np
import pytest

from sedtalker_jax.data.mixing import spread
from sedtalker_jax.evaluation.claims import animation, animation_tracks, backbone, disentanglement, editing, identity
from sedtalker_jax.evaluation.claims.identity import HeadClassifier
from sedtalker_jax.evaluation.claims.jobs import Job, in_order
from sedtalker_jax.evaluation.claims.probes import phoneme_frames, probe, take_turns
from sedtalker_jax.evaluation.claims.settings import Settings


def clips(informative: bool, n: int = 20, frames: int = 120, seed: int = 0):
    rng = np.random.default_rng(seed)
    targets = [rng.choice(["a", "a", "b", "c"], frames) for _ in range(n)]
    codes = {name: rng.normal(size=6) for name in "abc"}
    signals = []
    for target in targets:
        signal = rng.normal(size=(frames, 6))
        if informative:
            signal += 4 * np.stack([codes[name] for name in target])
        signals.append(signal)
    return signals, targets


def test_a_probe_finds_what_is_there_and_nothing_else():
    signals, targets = clips(True)
    groups = [str(i) for i in range(20)]
    found = probe(signals, targets, groups)
    assert found.accuracy.mean() > 0.9 and found.majority.mean() == pytest.approx(0.5, abs=0.1)
    nothing = probe(*clips(False), groups)
    assert nothing.accuracy.mean() < nothing.majority.mean() + 0.05
    assert found.frames.tolist() == [20] * 20


def test_a_probe_never_sees_the_group_that_it_is_asked_about():
    rng = np.random.default_rng(0)
    # Each group has a signal and a class of its own: only a fit that saw the group could know.
    signals = [20.0 * rng.normal(size=8) + rng.normal(size=(60, 8)) for _ in range(10)]
    targets = [np.full(60, f"class-{i}") for i in range(10)]
    assert probe(signals, targets, [str(i) for i in range(10)]).accuracy.max() == 0
    twice = probe(signals * 2, targets * 2, ["0"] * 10 + ["1"] * 10)
    assert twice.accuracy.min() > 0.9


def test_frames_without_a_class_are_not_asked():
    signals, targets = clips(True)
    targets[3][:] = ""
    found = probe(signals, targets, take_turns(["x", "y"] * 10))
    assert found.frames[3] == 0 and np.isnan(found.accuracy[3]) and np.isfinite(np.delete(found.accuracy, 3)).all()


def test_groups_take_turns_within_each_name():
    assert take_turns(["x", "x", "y", "x", "y"]) == ["0", "1", "0", "2", "1"]


def test_phonemes_at_times():
    record = {"phonemes": [["p", 0.1, 0.2], ["a:", 0.2, 0.5]]}
    assert phoneme_frames(record, np.array([0.0, 0.1, 0.19, 0.2, 0.5])).tolist() == ["", "p", "p", "a:", ""]


def test_the_head_classifier_names_heads_by_their_manner():
    rng = np.random.default_rng(0)
    manners = rng.normal(size=(3, 5))
    made = [(f"head-{i % 3}", manners[i % 3] + rng.normal(size=(40, 5))) for i in range(60)]
    classifier = HeadClassifier.fit(made)
    assert classifier.heads == ("head-0", "head-1", "head-2") and classifier.held_out_accuracy > 0.9
    assert classifier.name(manners[1] + rng.normal(size=(40, 5))) == "head-1"


def test_jobs_require_only_what_some_area_has(tiny_world, tmp_path):
    settings = Settings(tmp_path, data=str(tiny_world), seeds=(2, 3))
    made = [job for area in (animation, disentanglement, identity, backbone) for job in area.jobs(settings)]
    elsewhere = {
        f"seed{seed}/{name}" for seed in settings.seeds for name in ("diarizer/ours", "diarizer/window", "joint/plain")
    }
    names = [job.name for job in in_order([*made, *(Job(name, print) for name in elsewhere)])]
    assert names.index("seed2/backbone/search") < names.index("seed3/backbone/gru") < names.index("seed3/backbone")
    assert {job.name.split("/")[0] for job in made} == {"seed2", "seed3"}


def test_a_smoke_run_has_tracks_of_the_clips_that_its_animators_validate_on(tmp_path, monkeypatch):
    monkeypatch.setattr(animation_tracks, "open_records", lambda directories, split: range(48))
    settings = Settings(tmp_path, smoke=True)
    validated = spread(48, animation.animator_config(settings, 0, tmp_path).data.valid_clips)
    assert animation_tracks.split_records(settings, "valid") == validated.tolist()
    assert animation_tracks.split_records(settings, "train") == list(range(48))
    assert animation_tracks.split_records(Settings(tmp_path), "valid") == list(range(48))


def test_the_reader_of_the_consistency_loss_has_faces_enough_in_any_run(tmp_path):
    for smoke in (False, True):
        config = editing.joint_config(Settings(tmp_path, smoke=smoke), "consistency", 0)
        assert config.loss.consistency > 0 and config.data.codec_clips > editing.HELD_OUT
    plain = editing.joint_config(Settings(tmp_path), "plain", 0)
    assert plain.loss.get("consistency", 0.0) == 0.0 and plain.data.codec_clips == config_of_full_run().data.codec_clips


def config_of_full_run():
    from configs import claims

    return claims.get_config("joint")
