"""Subjects: each moves in a way of its own, and one that training never saw is called unknown."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sedtalker_jax.data.face_codec import FaceCodec
from sedtalker_jax.errors import UserError
from sedtalker_jax.inference.pipeline import SEDTalker
from sedtalker_jax.models.animator import Animator, AnimatorConfig
from sedtalker_jax.models.backbone import BackboneConfig
from sedtalker_jax.models.subject import UNKNOWN_SUBJECT
from sedtalker_jax.randomness import example_keys
from tests.inference.talker import SUBJECTS, noise, subject_talker, tiny_codec
from tests.models.sedtalker_test import joint_batch, row, small_model
from tests.support import random_params

F, D, K = 6, 5, 3


def animator(**options) -> Animator:
    backbone = BackboneConfig("A", width=8, num_heads=2, num_kv_heads=1, dropout=0.0)
    return Animator(AnimatorConfig(backbone, rank=2, template_size=2, condition_width=4, num_subjects=3, **options))


def inputs(num_rows: int) -> tuple[jax.Array, jax.Array, jax.Array, None, jax.Array]:
    """The same clip in every row: features, mask, activations, no residual, template code."""
    rng = np.random.default_rng(0)
    features, activations, code = rng.normal(size=(1, F, D)), rng.random((1, F, K)), rng.normal(size=(1, 2))
    rows = [jnp.asarray(np.repeat(x, num_rows, axis=0), jnp.float32) for x in (features, activations, code)]
    return rows[0], jnp.ones((num_rows, F), bool), rows[1], None, rows[2]


def random_animator_params(model: Animator) -> dict:
    shapes = jax.eval_shape(model.init, jax.random.key(0), *inputs(1))
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(0, 0.4, x.shape), jnp.float32), shapes)


def test_nobody_in_particular_is_the_unknown_subject_and_no_other():
    model = animator()
    params, given = random_animator_params(model), inputs(4)
    motions = np.asarray(model.apply(params, *given, subject=jnp.arange(4)))
    nobody = np.asarray(model.apply(params, *given))
    np.testing.assert_array_equal(nobody[0], motions[UNKNOWN_SUBJECT])
    for one in range(4):
        for other in range(one):
            assert np.abs(motions[one] - motions[other]).max() > 1e-2


def test_in_training_some_subjects_are_called_unknown_as_their_own_seeds_say():
    model = animator(subject_dropout=0.2)
    params, count = random_animator_params(model), 400
    seeds, step = jnp.arange(count, dtype=jnp.uint32), 7
    subject = jnp.full((count,), 2)
    run = jax.jit(model.apply)
    motions = np.asarray(run(params, *inputs(count), example_keys(seeds, step), subject=subject))
    own, unknown = (np.asarray(run(params, *inputs(1), subject=jnp.array([i])))[0] for i in (2, UNKNOWN_SUBJECT))
    is_own, is_unknown = (np.abs(motions - motion).max(axis=(1, 2)) < 1e-5 for motion in (own, unknown))
    assert (is_own ^ is_unknown).all()
    # Binomial of 400 and 0.2: five deviations of 8.
    assert abs(is_unknown.sum() - 80) < 40
    backwards = run(params, *inputs(count), example_keys(seeds[::-1], step), subject=subject)
    np.testing.assert_allclose(np.asarray(backwards)[::-1], motions, atol=1e-6)
    later = np.asarray(run(params, *inputs(count), example_keys(seeds, step + 1), subject=subject))
    assert np.abs(later - motions).max() > 1e-2, "another step draws anew"


def test_training_tells_subjects_apart_and_the_unknown_one_lies_between():
    model = animator(subject_dropout=0.3)
    subject = jnp.repeat(jnp.array([1, 2]), 8)
    given = inputs(len(subject))
    target = jnp.where(subject == 1, 1.0, -1.0)[:, None, None] * jnp.ones((1, F, 2))
    params, optimizer = model.init(jax.random.key(0), *given), optax.adam(0.02)

    @jax.jit
    def step(params, state, number):
        keys = example_keys(jnp.arange(len(subject), dtype=jnp.uint32), number)

        def loss(p):
            return jnp.mean(jnp.square(model.apply(p, *given, keys, subject=subject) - target))

        updates, state = optimizer.update(jax.grad(loss)(params), state)
        return optax.apply_updates(params, updates), state

    before = model.apply(params, *inputs(4), subject=jnp.arange(4))
    np.testing.assert_array_equal(before[0], before[1], err_msg="untrained subjects change nothing")
    state = optimizer.init(params)
    for number in range(150):
        params, state = step(params, state, number)
    unknown, ann, bob, unseen = np.asarray(model.apply(params, *inputs(4), subject=jnp.arange(4))).mean(axis=(1, 2))
    assert ann > 0.8 and bob < -0.8 and abs(unknown) < 0.4
    assert np.isfinite(unseen)


def test_a_clip_alone_equals_the_clip_in_a_padded_batch():
    model = small_model(num_subjects=3)
    batch = joint_batch([16_000, 23_456, 32_000], padded=32_000)
    batch["face"]["subject"] = np.array([3, 1, 0], np.int32)
    params = {"params": random_params(model, row(batch, 0))}
    run = jax.jit(model.apply)
    together, alone = run(params, batch)["motion"], run(params, row(batch, 1))["motion"]
    np.testing.assert_allclose(together[1, : alone.shape[1]], alone[0], atol=1e-5 * float(jnp.abs(together).max()))
    batch["face"]["subject"] = np.array([3, 2, 0], np.int32)
    change = np.abs(run(params, batch)["motion"] - together).max(axis=(1, 2))
    assert change[1] > 1e-2 and not change[[0, 2]].any()


def test_models_without_subjects_have_no_table():
    batch = row(joint_batch([8_000], padded=8_000), 0)

    def tree(model):
        return jax.eval_shape(model.init, jax.random.key(0), batch)["params"]["animator"]

    plain, knowing = tree(small_model()), tree(small_model(num_subjects=2))
    assert "subject" not in plain and knowing.pop("subject")["embedding"].shape == (3, 16)
    assert jax.tree.structure(plain) == jax.tree.structure(knowing)


def test_a_users_subject_is_the_one_of_that_name():
    talker = subject_talker()
    assert talker.subjects == SUBJECTS
    waveform = noise(0.5)
    track = talker.diarize(waveform)
    motions = {name: talker.animate(waveform, track, subject=name).vertices for name in (None, *SUBJECTS)}
    assert all(np.abs(motions[name] - motions[None]).max() > 1e-5 for name in SUBJECTS)
    table = talker.params["animator"]["subject"]["embedding"]
    swapped = {
        **talker.params,
        "animator": {**talker.params["animator"], "subject": {"embedding": table[jnp.array([0, 3, 2, 1])]}},
    }
    other = SEDTalker(talker.model, swapped, talker.codec, talker.meta)
    np.testing.assert_allclose(other.animate(waveform, track, subject="ann").vertices, motions["cleo"], atol=1e-7)


def test_an_unknown_name_gets_the_known_ones():
    with pytest.raises(UserError, match="subject 'dora' is none of those that training saw: ann, bob, cleo"):
        subject_talker().animate(noise(0.5), subject="dora")


def test_names_come_back_from_a_workdir_and_records_are_matched_by_speaker_then_by_head(tmp_path):
    dataclasses.replace(tiny_codec(), subjects=SUBJECTS).save(tmp_path / "knowing")
    codec = FaceCodec.load(tmp_path / "knowing")
    assert [codec.subject_index(name, "head-0") for name in (*SUBJECTS, "dora")] == [1, 2, 3, UNKNOWN_SUBJECT]
    assert codec.subject_index("some voice", "cleo") == 3
    tiny_codec().save(tmp_path / "plain")
    assert FaceCodec.load(tmp_path / "plain").subjects == ()
