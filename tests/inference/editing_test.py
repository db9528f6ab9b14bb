"""Edits of a recording: what they move, what they leave alone, and that all that drives the face is read from e'."""

import dataclasses

import numpy as np
import pytest

from sedtalker_jax import axes
from sedtalker_jax.emotion import Edit, EditDictionary, EditSchedule, EmotionTrack
from sedtalker_jax.emotion.labels import ACTIVE
from sedtalker_jax.errors import UserError
from sedtalker_jax.inference.editing import REACH_S, edited_motion, fit_edit_dictionary
from sedtalker_jax.inference.pipeline import SEDTalker
from tests.inference.talker import noise, subject_talker, tiny_talker
from tests.support import LABELS


def schedule(*edits):
    return EditSchedule(tuple(edits))


def test_the_face_is_as_heard_beyond_the_reach_of_an_edit_and_moves_inside():
    talker, waveform = tiny_talker(), noise(2.5)
    assert len(talker.hear(waveform)) > 1
    edited = talker.edit(waveform, schedule(Edit("happy", 1.5, start=0.9, end=1.1)))
    before, after = talker.animate(waveform), talker.animate_edited(waveform, edited)
    times = np.arange(len(before.vertices)) / talker.fps
    outside = (times < 0.6) | (times > 1.4)
    np.testing.assert_array_equal(after.vertices[outside], before.vertices[outside])
    moved = np.abs(after.vertices - before.vertices).max(axis=(1, 2))
    assert moved[(times >= 0.9) & (times <= 1.1)].min() > 10 * np.finfo(np.float32).eps
    # The fading is what keeps the edit there: the animator attends to the whole window.
    spread = edited_motion(talker, waveform, edited, before.template, reach=None)
    heard = edited_motion(talker, waveform, edited, before.template)
    assert np.abs(spread - heard)[outside].max() > 0


def test_an_edited_face_moves_like_the_subject_that_is_asked_for():
    base, waveform = subject_talker(), noise(1.5)
    talker = SEDTalker(base.model, base.params, base.codec, base.meta)
    talker.edit_dictionary = tiny_talker().edit_dictionary
    edited = talker.edit(waveform, schedule(Edit("happy", 1.5, start=0.2, end=0.3)))
    bob, nobody = (talker.animate_edited(waveform, edited, subject=subject).vertices for subject in ("bob", None))
    outside = np.arange(len(bob)) / talker.fps > 0.4 + REACH_S
    np.testing.assert_array_equal(bob[outside], talker.animate(waveform, subject="bob").vertices[outside])
    assert np.abs(bob - nobody)[outside].max() > 1e-4
    with pytest.raises(UserError, match="dave"):
        talker.animate_edited(waveform, edited, subject="dave")


def test_frames_outside_an_edit_keep_category_and_intensity_bit_by_bit(as_users_compile):
    talker, waveform = tiny_talker(), noise(2.5)
    edited = talker.edit(waveform, schedule(Edit("sad", 2.0, start=0.5, end=0.7, fade=0.1)))
    times = edited.track.times
    outside = (times < 0.4) | (times > 0.8)
    np.testing.assert_array_equal(edited.active, ~outside)
    heard = talker.diarize(waveform)
    for name in ("probabilities", "intensity"):
        np.testing.assert_array_equal(getattr(edited.track, name)[outside], getattr(heard, name)[outside])
        assert np.abs(getattr(edited.track, name) - getattr(heard, name))[~outside].max() > 1e-3
    np.testing.assert_array_equal(edited.before[outside], edited.after[outside])


def test_alpha_zero_changes_nothing(as_users_compile):
    talker, waveform = tiny_talker(), noise(0.9)
    edited = talker.edit(waveform, schedule(Edit("angry", 0.0)))
    np.testing.assert_array_equal(edited.track.probabilities, talker.diarize(waveform).probabilities)
    np.testing.assert_array_equal(talker.animate_edited(waveform, edited).vertices, talker.animate(waveform).vertices)


def test_category_intensity_and_residual_are_read_from_the_edited_embedding():
    talker, waveform = tiny_talker(), noise(0.9)
    edited = talker.edit(waveform, schedule(Edit("fear", 1.0, "happy")))
    logits, intensity = (np.asarray(part[0]) for part in talker.read_embedding(edited.after[None]))
    softmax = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(edited.track.probabilities, softmax, atol=1e-5)
    np.testing.assert_allclose(edited.track.intensity, intensity, atol=1e-6)
    activations, face = talker.activations(edited.track, len(waveform)), talker.template(None)
    own = talker.motion(waveform, activations, face)
    np.testing.assert_allclose(talker.motion(waveform, activations, face, heard=talker.hear(waveform)), own, atol=1e-5)
    assert np.abs(talker.motion(waveform, activations, face, heard=edited.windows) - own).max() > 1e-3


def test_an_edit_beyond_the_bound_is_held_back_and_says_so():
    talker, waveform = tiny_talker(), noise(0.9)
    gentle, wild = (talker.edit(waveform, schedule(Edit("upset", alpha))) for alpha in (0.01, 5.0))
    assert not gentle.describe() and "held back" in wild.describe()
    dictionary = talker.edit_dictionary
    norms = [np.linalg.norm(dictionary.whiten(e), axis=1) for e in (wild.before, wild.after)]
    assert np.all(norms[1] <= np.maximum(norms[0], dictionary.bound) * (1 + 1e-5))


def test_the_share_that_is_held_back_is_one_of_the_edited_frames():
    talker, waveform = tiny_talker(), noise(2.5)
    short = talker.edit(waveform, schedule(Edit("upset", 5.0, start=1.0, end=1.02, fade=0.0)))
    assert 0 < short.clipped.sum() <= short.active.sum() < 0.02 * len(short.active)
    share = short.clipped.sum() / short.active.sum()
    assert f"in {100 * share:.0f}% of the edited frames" in short.describe()
    unmoved = dataclasses.replace(short, active=np.zeros_like(short.active))
    assert "in 100% of the edited frames" in unmoved.describe()


def test_the_weight_falls_from_one_at_the_edit_to_nothing_at_its_reach():
    talker, waveform = tiny_talker(), noise(2.5)
    edited = talker.edit(waveform, schedule(Edit("happy", 1.0, start=1.0, end=1.2, fade=0.0)))
    active = edited.track.times[edited.active]
    assert np.all(edited.weight_at(np.linspace(active[0], active[-1], 57)) == 1.0)
    after = edited.weight_at(active[-1] + np.linspace(0, REACH_S, 30))
    assert np.all(np.diff(after) <= 0) and after[-1] < 1e-9 and after.max() == 1.0
    assert np.all(edited.weight_at(np.array([0.0, active[0] - REACH_S, active[-1] + REACH_S, 2.4])) < 1e-9)


def test_an_edit_of_an_unknown_emotion_or_a_time_past_the_end_is_refused():
    talker, waveform = tiny_talker(), noise(0.9)
    with pytest.raises(UserError, match="unknown emotion 'bored'"):
        talker.edit(waveform, schedule(Edit("bored", 1.0)))
    with pytest.raises(UserError, match="the recording ends at 0.90 s"):
        talker.edit(waveform, schedule(Edit("happy", 1.0, start=0.5, end=3.0)))


def test_a_workdir_without_a_dictionary_names_the_command_that_makes_one(tmp_path):
    shared = tiny_talker()
    talker = SEDTalker(shared.model, shared.params, shared.codec, shared.meta)
    talker.directory = tmp_path
    with pytest.raises(UserError, match=f"evaluate.py --config=CONFIG --workdir={tmp_path}"):
        talker.edit(noise(0.9), schedule(Edit("happy", 1.0)))


def test_a_dictionary_is_fitted_to_labelled_segments_of_the_records_and_stored(tmp_path):
    talker = tiny_talker()
    records = [
        {"waveform": noise(0.9, seed), "segments": [(0.0, 0.4, "sad"), (0.4, 0.9, "happy"), (0.2, 0.3, "bored")]}
        for seed in range(12)
    ]
    dictionary = fit_edit_dictionary(talker, records, num_clips=6)
    assert dictionary.labels == ("happy", "sad") and sorted(dictionary.example_emotions) == ["happy"] * 6 + ["sad"] * 6
    embedding = talker.hear(records[0]["waveform"])[0].embedding
    inside = axes.speech_frame_times(len(embedding)) < 0.4
    np.testing.assert_allclose(dictionary.examples[0], embedding[inside].mean(axis=0), rtol=1e-4, atol=1e-5)
    path = tmp_path / "edit_dictionary.npz"
    dictionary.save(path)
    loaded = EditDictionary.load(path)
    np.testing.assert_array_equal(loaded.examples, dictionary.examples)
    assert loaded.example_emotions == dictionary.example_emotions and set(loaded.labels) < set(LABELS)


def test_scales_are_measured_by_what_the_models_own_heads_read_of_unseen_frames(monkeypatch):
    talker = tiny_talker()
    seen, unseen = (
        [{"waveform": noise(1.4, seed), "segments": [(0.0, 0.6, "sad"), (0.6, 1.4, "happy")]} for seed in seeds]
        for seeds in (range(8), range(8, 14))
    )
    asked = []

    def scaled(self, read, embeddings, emotions):
        asked.append((read, embeddings, emotions))
        return self

    monkeypatch.setattr(EditDictionary, "scaled_to_reading", scaled)
    dictionary = fit_edit_dictionary(talker, seen, unseen=unseen)
    ((read, embeddings, emotions),) = asked
    wanted = [talker.hear(record["waveform"]) for record in unseen]
    assert len(embeddings) == len(emotions) and set(emotions) == {"sad", "happy"}
    first = wanted[0][0].embedding
    inside = axes.speech_frame_times(len(first)) < 0.6
    np.testing.assert_allclose(embeddings[: inside.sum() // 2], first[: inside.sum() // 2], atol=1e-5)
    # What is read is what drives the face.
    strengths, intensity = read(first)
    logits, heard = (np.asarray(part[0]) for part in talker.read_embedding(first[None]))
    posterior = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    track = EmotionTrack(talker.labels, posterior, heard, duration=len(first) / 50 + 0.01)
    driven = track.activation(sharpness=talker.model.config.sharpness)
    for column, name in enumerate(dictionary.labels):
        np.testing.assert_allclose(strengths[:, column], driven[:, ACTIVE.index(name)], atol=1e-5)
    np.testing.assert_allclose(intensity, heard, atol=1e-6)
