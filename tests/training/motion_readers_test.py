"""Frozen readers: they learn what motion shows, stay as they were fitted, and ask for motion that reads like the truth."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sedtalker_jax.data.face_codec import FaceCodec
from sedtalker_jax.emotion.labels import ACTIVE, NEUTRAL
from sedtalker_jax.errors import UserError
from sedtalker_jax.face.space import FaceSpace
from sedtalker_jax.models.track_source import PREDICTED_TRACK, TRUE_TRACK
from sedtalker_jax.training import motion_readers as mr
from sedtalker_jax.training.losses import JointObjective, LossConfig
from sedtalker_jax.training.motion_losses import FaceLossConstants
from tests.support import LABELS as ALL_LABELS
from tests.support import tiny_model

V, RANK, FPS = 10, 5, 30.0
LABELS = (NEUTRAL, "happy", "angry")
LIPS = np.array([0, 1])
SIZE = 500_000
TRUTH_TERMS = ("shown_emotion", "lip_reading")
"""Terms that compare with the true motion; the third has tests of its own (consistency_test)."""


@pytest.fixture(scope="module")
def codec():
    """Three coefficients that move the lips alone, then two that move the rest alone."""
    basis = np.zeros((RANK, V, 3), np.float32)
    basis[[0, 1, 2], [0, 0, 1], [0, 1, 2]] = 1.0
    basis[[3, 4], [5, 6], [0, 1]] = 1.0
    space = FaceSpace("toy", np.array([[0, 1, 2]]), basis.reshape(RANK, -1), ("a",),
                      np.zeros((1, V, 3), np.float32), {"lips": LIPS})  # fmt: skip
    return FaceCodec.fit(space, [np.random.default_rng(0).normal(0, 0.01, (400, RANK))], ["a"], 1)


@pytest.fixture(scope="module")
def records(codec):
    """The last two coefficients show the emotion; each phoneme is a shape of the lips that is held for four frames."""
    rng = np.random.default_rng(1)
    shapes = {symbol: rng.normal(0, 0.015, 3) for symbol in "abcde"}
    made = []
    for number in range(48):
        frames = int(rng.integers(40, 90))
        motion = rng.normal(0, 0.002, (frames, RANK))
        activation = np.zeros((frames, len(ACTIVE)), np.float16)
        half = frames // 2
        for part, name in ((slice(0, half), LABELS[number % 3]), (slice(half, frames), LABELS[(number // 3) % 3])):
            if name != NEUTRAL:
                activation[part, ACTIVE.index(name)] = 0.9
                motion[part, 3 if name == "happy" else 4] += 0.02
        phonemes = [["_", 0.0, 4 / FPS]]
        for start in range(4, frames - 4, 4):
            symbol = rng.choice([s for s in shapes if s != phonemes[-1][0]])
            motion[start : start + 4, :3] += shapes[symbol]
            phonemes.append([str(symbol), start / FPS, (start + 4) / FPS])
        made.append({"motion": motion.astype(np.float32), "activation": activation, "phonemes": phonemes, "fps": FPS})
    return made


@pytest.fixture(scope="module")
def readers(codec, records):
    return {term: mr.fit_reader(term, codec, records, LABELS, 0, animator_size=SIZE, num_steps=150) for term in TRUTH_TERMS}


@pytest.fixture
def part(codec, records):
    frames = np.array([40, 31], np.int32)
    motion = np.stack([codec.normalise(record["motion"][:40]) for record in records[:2]])
    return {"motion": motion, "num_frames": frames, "track_source": np.array([TRUE_TRACK, PREDICTED_TRACK], np.int32)}


def test_readers_learn_what_motion_shows_on_clips_they_have_not_seen(readers):
    emotion, lips = readers["shown_emotion"], readers["lip_reading"]
    assert emotion.score > 0.9 and emotion.chance < 0.6
    assert lips.score < 0.6 * lips.chance


def test_the_lip_reader_sees_the_lips_alone(readers, codec, part):
    mask = np.ones((2, 40), bool)
    other = part["motion"].copy()
    other[..., 3:] += 3.0
    features, _ = readers["lip_reading"](jnp.asarray(part["motion"]), mask)
    np.testing.assert_allclose(readers["lip_reading"](jnp.asarray(other), mask)[0], features, atol=1e-5)
    other[..., 0] += 1.0
    assert float(jnp.abs(readers["lip_reading"](jnp.asarray(other), mask)[0] - features).max()) > 0.05
    view = mr.lip_view(codec)
    error = np.random.default_rng(3).normal(size=(7, RANK)).astype(np.float32)
    np.testing.assert_allclose(
        np.square(error @ view).sum(1), np.einsum("ir,rq,iq->i", error, codec.gram("lips"), error), rtol=1e-4
    )


def test_true_motion_costs_nothing_and_another_emotion_does(readers, part, codec):
    truth = mr.reader_sums(part, jnp.asarray(part["motion"]), None, readers)
    assert all(abs(float(value)) < 1e-3 for value in truth.values())
    changed = part["motion"].copy()
    changed[..., 3] += 0.02 / codec.motion_std[3]
    sums = mr.reader_sums(part, jnp.asarray(changed), None, readers)
    weights = mr.reader_weights(part, readers)
    assert float(weights["shown_emotion"]) == float(weights["lip_reading"]) == 71
    assert float(sums["shown_emotion"]) / 71 > 0.3 and abs(float(sums["lip_reading"])) < 1e-3


def test_gradients_agree_with_finite_differences_and_padding_has_none(readers, part):
    rng = np.random.default_rng(4)
    motion, direction = part["motion"] + rng.normal(0, 0.3, part["motion"].shape), rng.normal(size=part["motion"].shape)
    with jax.enable_x64(True):
        exact = {name: np.asarray(value, np.float64) if name == "motion" else value for name, value in part.items()}

        def total(x):
            return sum(mr.reader_sums(exact, x, None, readers).values())

        gradient = np.asarray(jax.grad(total)(jnp.asarray(motion)))
        step = 1e-5
        ahead, behind = (float(total(jnp.asarray(motion + sign * step * direction))) for sign in (1, -1))
    np.testing.assert_allclose((gradient * direction).sum(), (ahead - behind) / (2 * step), rtol=1e-5)
    assert gradient[1, :31].any() and not gradient[1, 31:].any()


def test_a_saved_reader_reads_alike_and_a_damaged_one_is_named(readers, part, tmp_path):
    mask = np.ones((2, 40), bool)
    for term, reader in readers.items():
        path = tmp_path / mr.reader_file(term)
        reader.save(path)
        again = mr.FrozenReader.load(path)
        for a, b in zip(again(jnp.asarray(part["motion"]), mask), reader(jnp.asarray(part["motion"]), mask), strict=True):
            np.testing.assert_array_equal(a, b)
        assert (again.score, again.chance, again.scale) == (reader.score, reader.chance, reader.scale)
        whole = path.read_bytes()
        for damaged in (whole[:100], whole[: len(whole) // 2], b"no archive"):
            path.write_bytes(damaged)
            with pytest.raises(UserError, match=f"{path.name}: not a motion reader"):
                mr.FrozenReader.load(path)
    np.savez(path, scale=1.0, score=1.0, chance=1.0, view=np.eye(RANK))
    with pytest.raises(UserError, match="not a motion reader.*delete it"):
        mr.FrozenReader.load(path)


@pytest.mark.parametrize(
    ("term", "lacking"),
    [("shown_emotion", "known emotion"), ("consistency", "known emotion"), ("lip_reading", "phonemes")],
)
def test_records_that_do_not_say_what_a_reader_learns_from_are_refused(codec, records, term, lacking):
    silent = [{**r, "activation": np.full_like(r["activation"], np.nan), "phonemes": []} for r in records]
    with pytest.raises(UserError, match=f"loss.{term}: 0 of 48 training faces have {lacking}, and at least 9 must"):
        mr.fit_reader(term, codec, silent, LABELS, 0, animator_size=SIZE)


def test_faces_that_nobody_labelled_or_the_labels_cannot_name_are_left_out(codec, records):
    few = records[:24]
    unknown = [{**r, "activation": np.full_like(r["activation"], np.nan)} for r in records[24:30]]
    # Its strengths of the labels are all zero, which would mean neutral.
    unknown.append({**records[30], "activation": np.zeros_like(records[30]["activation"]), "expression": "sad"})
    alone, beside = (
        mr.fit_reader("consistency", codec, faces, LABELS, 0, animator_size=SIZE, num_steps=3) for faces in (few, few + unknown)
    )
    jax.tree.map(np.testing.assert_array_equal, alone.params, beside.params)


def test_the_fit_depends_on_its_seed_alone(codec, records):
    first, again, other = (
        mr.fit_reader("consistency", codec, records, LABELS, seed, animator_size=SIZE, num_steps=3) for seed in (0, 0, 1)
    )
    jax.tree.map(np.testing.assert_array_equal, first.params, again.params)
    assert not np.array_equal(other.params["outputs"]["kernel"], first.params["outputs"]["kernel"])


def test_padding_adds_nothing(readers, part):
    mask = np.ones((2, 40), bool)
    padded = np.pad(part["motion"], ((0, 0), (0, 9), (0, 0)), constant_values=50.0)
    for reader in readers.values():
        found = reader(jnp.asarray(padded), jnp.asarray(np.pad(mask, ((0, 0), (0, 9)))))
        alone = reader(jnp.asarray(part["motion"]), jnp.asarray(mask))
        for a, b in zip(found, alone, strict=True):
            np.testing.assert_allclose(np.asarray(a)[:, :40], b, atol=1e-5)


@pytest.mark.parametrize("animator_size", [30_000, 521_536])
def test_a_reader_keeps_to_a_twentieth_of_the_animator(animator_size):
    width = mr.reader_width("consistency", animator_size, 64, 8)
    params = mr.MotionReader(8, width).init(jax.random.key(0), jnp.zeros((1, 2, 64)), jnp.ones((1, 2), bool))
    size = sum(x.size for x in jax.tree.leaves(params))
    assert size == mr.reader_size(width, 64, 8) <= mr.LARGEST_SHARE * animator_size
    assert width == mr.LARGEST_WIDTH or mr.reader_size(width + 1, 64, 8) > mr.LARGEST_SHARE * animator_size
    with pytest.raises(UserError, match="loss.consistency: .* make the animator larger"):
        mr.reader_width("consistency", 1_000, 64, 8)


def test_a_term_without_its_reader_is_refused(codec):
    config = LossConfig(vertices=1.0, lips=0.0, upper_face=0.0, velocity=0.0, shown_emotion=0.1)
    with pytest.raises(ValueError, match="no fitted reader for shown_emotion"):
        JointObjective(tiny_model(), config, np.ones(len(ALL_LABELS)), FaceLossConstants.of(codec, ["vertices"]))
