"""Edits part no lips that are shut, and are whole where the mouth is open."""

import numpy as np
import pytest

from sedtalker_jax.emotion import Edit, EditSchedule
from sedtalker_jax.face.template import FaceTemplate
from sedtalker_jax.inference.editing import FREE_FROM_M, SHUT_WITHIN_M, edited_motion, keep_lips_shut
from tests.inference.talker import NUM_VERTICES, noise, tiny_codec, tiny_talker
from tests.support import RANK

UPPER, LOWER = 3, 8
FRAMES = 40


@pytest.fixture
def lips(monkeypatch):
    monkeypatch.setattr("sedtalker_jax.data.face_codec.lip_points", lambda topology: (UPPER, LOWER))


def face_of(codec) -> FaceTemplate:
    return codec.space.template(codec.space.template_names[0])


def gap(codec, normalised):
    """[F, 3] in metres, from the vertices of a motion or of a difference of motions, without what the template adds."""
    raw = np.asarray(normalised, np.float64) * codec.motion_std
    moved = (raw @ codec.space.basis.astype(np.float64)).reshape(-1, NUM_VERTICES, 3)
    return moved[:, UPPER] - moved[:, LOWER]


def motion_with_openings(codec, openings):
    """Normalised motion whose lips are open by so many metres, random otherwise."""
    rng = np.random.default_rng(1)
    face = face_of(codec)
    rest = (face.vertices[UPPER] - face.vertices[LOWER]).astype(np.float64)
    basis = codec.space.basis.reshape(RANK, NUM_VERTICES, 3).astype(np.float64)
    rows = basis[:, UPPER] - basis[:, LOWER]
    random = rng.normal(0, 0.01, (len(openings), RANK))
    wanted = np.asarray(openings)[:, None] * rest / np.linalg.norm(rest)
    raw = random + (wanted - random @ rows) @ np.linalg.pinv(rows)
    return codec.normalise(raw).astype(np.float32)


def test_the_opening_is_that_of_the_vertices(lips):
    codec = tiny_codec()
    face = face_of(codec)
    raw = np.random.default_rng(2).normal(0, 0.01, (FRAMES, RANK)).astype(np.float32)
    moved = codec.space.vertices(face.vertices, raw).astype(np.float64)
    expected = np.linalg.norm(moved[:, UPPER] - moved[:, LOWER], axis=1)
    expected -= np.linalg.norm((face.vertices[UPPER] - face.vertices[LOWER]).astype(np.float64))
    np.testing.assert_allclose(codec.lip_opening(face.vertices, raw), expected, atol=1e-7)


def test_what_is_left_of_a_change_moves_no_gap_and_is_the_nearest_such_change(lips):
    codec = tiny_codec()
    rng = np.random.default_rng(3)
    change = rng.normal(size=(FRAMES, RANK))
    left = codec.without_lip_gap(change)
    assert np.abs(gap(codec, change)).max() > 1e-3
    np.testing.assert_allclose(gap(codec, left), 0, atol=1e-12)
    np.testing.assert_allclose(codec.without_lip_gap(left), left, atol=1e-12)
    for other in rng.normal(size=(20, FRAMES, RANK)):
        allowed = codec.without_lip_gap(other)
        assert (np.linalg.norm(change - left, axis=1) <= np.linalg.norm(change - allowed, axis=1)).all()


def test_shut_lips_stay_shut_and_open_ones_move_freely(lips):
    codec = tiny_codec()
    openings = np.array([0.0, 0.5 * SHUT_WITHIN_M, 0.5 * (SHUT_WITHIN_M + FREE_FROM_M), 1.01 * FREE_FROM_M, 0.02])
    unedited = motion_with_openings(codec, openings)
    change = np.random.default_rng(4).normal(size=unedited.shape).astype(np.float32)
    kept = keep_lips_shut(codec, face_of(codec), unedited, change)
    moved = np.linalg.norm(gap(codec, kept), axis=1) / np.linalg.norm(gap(codec, change), axis=1)
    np.testing.assert_allclose(moved, [0, 0, 0.5, 1, 1], atol=1e-3)
    np.testing.assert_array_equal(kept[3:], change[3:])
    assert (np.abs(kept).max(axis=1) > 0.1).all(), "the rest of the face moves in every frame"


def test_an_edit_of_a_recording_keeps_the_gap_where_lips_are_shut(lips):
    talker, waveform = tiny_talker(), noise(0.9)
    face = face_of(talker.codec)
    edited = talker.edit(waveform, EditSchedule((Edit("happy", 1.5),)))
    # The random animator's lips are anywhere: every other frame is shut, the others are wide open.
    num_frames = len(talker.activations(edited.heard, len(waveform)))
    shut = np.arange(num_frames) % 2 == 0
    heard = motion_with_openings(talker.codec, np.where(shut, 0.0, 0.03))
    change = edited_motion(talker, waveform, edited, face, unedited=heard) - heard
    moved = np.linalg.norm(gap(talker.codec, change), axis=1)
    assert moved[shut].max() < 1e-6 < 1e-4 < np.abs(change[shut]).max()
    assert moved[~shut].max() > 1e-5


def test_on_a_topology_without_lip_points_a_change_stays_as_it_is():
    codec = tiny_codec()
    change = np.ones((3, RANK), np.float32)
    np.testing.assert_array_equal(keep_lips_shut(codec, face_of(codec), np.zeros_like(change), change), change)
