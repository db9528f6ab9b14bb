"""Ways to edit, side by side: each starts as heard, goes where it says, and changes the motion by the dictionary's gain."""

import dataclasses

import numpy as np
import pytest

from sedtalker_jax.evaluation.editing_arms import ARMS, ROWS, ClipSweep
from sedtalker_jax.inference.editing import SHUT_WITHIN_M, strengths
from tests.inference.talker import noise, tiny_talker
from tests.support import LABELS

EMBEDDING_ARMS = tuple(arm for arm in ARMS if arm != "one-hot")
STRENGTH = 0.8


@pytest.fixture(scope="module")
def sweep():
    talker, waveform = tiny_talker(), noise(0.9)
    (heard,) = talker.hear(waveform)
    # The bound is for users; where these arms lead must not depend on it.
    dictionary = dataclasses.replace(talker.edit_dictionary, bound=1e6)
    return ClipSweep(talker, dictionary, waveform, heard.embedding, talker.template(None), "sad", "happy", STRENGTH, seed=0)


def metres(sweep, motion):
    return motion * sweep.model.codec.motion_std + sweep.model.codec.motion_mean


@pytest.mark.parametrize("arm", ARMS)
def test_alpha_zero_is_the_motion_that_animate_gives(sweep, arm):
    talker = sweep.model
    track = talker.diarize(sweep.waveform)
    wanted = talker.motion(sweep.waveform, talker.activations(track, len(sweep.waveform)), talker.template(None))
    moved = sweep.motion(arm, np.array([0.0, 1.0]))
    np.testing.assert_allclose(moved[0], metres(sweep, wanted), atol=1e-5)
    assert np.abs(moved[1] - moved[0]).max() > 1e-4


def test_the_one_hot_arm_ends_in_the_label_at_the_strength_of_faces(sweep):
    talker = sweep.model
    frames = len(talker.activations(talker.diarize(sweep.waveform), len(sweep.waveform)))
    label = np.zeros((frames, len(LABELS) - 1), np.float32)
    label[:, LABELS.index("happy") - 1] = STRENGTH
    wanted = talker.motion(sweep.waveform, label, talker.template(None))
    np.testing.assert_allclose(sweep.motion("one-hot", np.ones(1))[0], metres(sweep, wanted), atol=1e-5)
    with pytest.raises(ValueError, match="moves no embedding"):
        sweep.step("one-hot")


def test_steps_lead_where_they_say(sweep):
    dictionary = sweep.dictionary
    direction = dictionary.direction("happy", "sad")
    whitened = {arm: sweep.step(arm) @ dictionary.whitening for arm in EMBEDDING_ARMS}
    sad, happy = (dictionary.class_means[dictionary.labels.index(name)] for name in ("sad", "happy"))
    np.testing.assert_allclose(sad + whitened["class-mean"], happy, atol=1e-8)
    # Ours arrives level with the target's mean, along the normal alone.
    assert (sad + whitened["ours"]) @ direction.normal == pytest.approx(happy @ direction.normal)
    np.testing.assert_allclose(whitened["ours"] / np.linalg.norm(whitened["ours"]), direction.normal, atol=1e-8)
    assert np.linalg.norm(whitened["random"]) == pytest.approx(np.linalg.norm(whitened["ours"]))
    other = dataclasses.replace(sweep, seed=1)
    np.testing.assert_array_equal(dataclasses.replace(sweep).step("random"), sweep.step("random"))
    assert np.abs(other.step("random") - sweep.step("random")).max() > 0


@pytest.mark.parametrize("arm", EMBEDDING_ARMS)
def test_distances_are_those_of_the_edited_mean_from_the_pairs_boundary(sweep, arm):
    dictionary, alphas = sweep.dictionary, np.array([0.0, 0.3, 1.0])
    pair = dictionary.labels.index("sad"), dictionary.labels.index("happy")
    means = dictionary.whiten(sweep.embeddings(arm, alphas)).mean(axis=1)
    scores = means @ dictionary.pair_weights[pair] + dictionary.pair_biases[pair]
    found = sweep.boundary_distances(arm, alphas)
    np.testing.assert_allclose(found, scores / np.linalg.norm(dictionary.pair_weights[pair]), atol=1e-6)
    assert arm == "random" or (np.diff(found) > 0).all()
    assert np.isnan(sweep.boundary_distances("one-hot", alphas)).all()


def test_on_its_way_what_is_read_changes_evenly(sweep):
    alphas = np.linspace(0.0, 1.0, 11)
    read = [strengths(sweep.model, sweep.dictionary.labels, rows)[0] for rows in sweep.embeddings("ours", alphas)]
    steps = np.abs(np.diff(read, axis=0)).sum(axis=2).mean(axis=1)
    assert steps.max() / steps.min() < 1.5
    direct = sweep.embedding + alphas[:, None, None] * sweep.step("ours")
    np.testing.assert_allclose(sweep.embeddings("ours", alphas[[0, -1]]), direct[[0, -1]], atol=1e-5)


def test_embeddings_stay_inside_the_bound(sweep):
    own = np.linalg.norm(sweep.dictionary.whiten(sweep.embedding), axis=1)
    bound = float(own.max()) + 0.1
    bounded = dataclasses.replace(sweep, dictionary=dataclasses.replace(sweep.dictionary, bound=bound))
    far = np.linalg.norm(bounded.dictionary.whiten(bounded.embeddings("ours", np.array([30.0]))[0]), axis=1)
    np.testing.assert_allclose(far, bound, rtol=1e-4)


@pytest.mark.parametrize("gain", [0.5, 2.0])
def test_the_change_grows_with_the_expression_gain(sweep, gain):
    louder = dataclasses.replace(sweep, dictionary=dataclasses.replace(sweep.dictionary, expression_gain=gain))
    alphas = np.array([0.0, 0.7])
    plain, changed = sweep.motion("ours", alphas), louder.motion("ours", alphas)
    np.testing.assert_allclose(changed[0], plain[0], atol=1e-9)
    np.testing.assert_allclose(changed[1] - changed[0], gain * (plain[1] - plain[0]), atol=1e-9)


def test_shut_lips_stay_shut_at_every_alpha(sweep, monkeypatch):
    upper, lower = 3, 8
    monkeypatch.setattr("sedtalker_jax.data.face_codec.lip_points", lambda topology: (upper, lower))
    codec, rest = sweep.model.codec, sweep.face.vertices[upper] - sweep.face.vertices[lower]

    def gap(motion):
        vertices = codec.space.vertices(sweep.face.vertices, motion.reshape(-1, motion.shape[-1]).astype(np.float32))
        return (vertices[:, upper] - vertices[:, lower]).reshape(*motion.shape[:-1], 3)

    moved = gap(sweep.motion("ours", np.array([0.0, 0.5, 1.0])))
    opening = np.linalg.norm(moved[0], axis=-1) - np.linalg.norm(rest)
    shut = opening < SHUT_WITHIN_M
    # The random animator's lips are anywhere; of one recording some frames must be shut for the test to say something.
    assert 0 < shut.sum()
    np.testing.assert_allclose(moved[1:, shut], np.broadcast_to(moved[0, shut], moved[1:, shut].shape), atol=1e-7)


def test_alphas_do_not_depend_on_what_is_animated_beside_them(sweep):
    alphas = np.linspace(-0.5, 1.5, ROWS + 3)
    together = sweep.motion("class-mean", alphas)
    assert together.shape[0] == ROWS + 3
    for number in (0, ROWS - 1, ROWS, ROWS + 2):
        alone = sweep.motion("class-mean", alphas[number : number + 1])[0]
        np.testing.assert_allclose(together[number], alone, atol=1e-6)
