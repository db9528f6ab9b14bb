"""Long recordings through a causal animator: one pass however long, in memory that does not grow with the recording."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sedtalker_jax import axes
from sedtalker_jax.emotion import EmotionTrack
from sedtalker_jax.errors import UserError
from sedtalker_jax.inference.pipeline import SEDTalker
from sedtalker_jax.inference.programs import animate_rows
from sedtalker_jax.inference.streaming import join_overlapping
from sedtalker_jax.inference.windows import split
from sedtalker_jax.models.diarizer import DiarizerConfig
from sedtalker_jax.models.sedtalker import SEDTalkerModel
from sedtalker_jax.precision import Precision
from sedtalker_jax.speech.resident_memory import peak_rise
from tests.inference.talker import noise, tiny_codec
from tests.support import LABELS, random_batch, random_params, tiny_model

MIB = 2**20
META = {"labels": LABELS, "fps": 30.0, "config": {"pipeline": {"max_seconds": 2.0}}}
"""Windows of 4 s that overlap by 1 s."""


@functools.cache
def causal_talker(*, reach_is_limited: bool = True, style_residual: bool = True) -> SEDTalker:
    """The smallest system with a causal animator; with limited reach its encoder and diarizer hear but a few frames."""
    config = tiny_model(dropout=0.0, scan="reference").config
    backbone = dataclasses.replace(config.animator.backbone, pattern="MAE", causal=True, window=7)
    animator = dataclasses.replace(config.animator, backbone=backbone, frame_stacking=2, condition_reach=3, motion_reach=2)
    config = dataclasses.replace(config, animator=animator, style_residual=style_residual)
    if reach_is_limited:
        encoder = dataclasses.replace(config.encoder, num_hidden_layers=0, feat_extract_norm="layer")
        diarizer = DiarizerConfig(LABELS, None, hidden_sizes=(8,), embedding_size=10)
        config = dataclasses.replace(config, encoder=encoder, diarizer=diarizer, acoustics=None)
    model = SEDTalkerModel(config)
    return SEDTalker(model, random_params(model, random_batch(1), seed=3), tiny_codec(), META)


def in_double_precision(talker: SEDTalker) -> SEDTalker:
    """The same system with parameters and computation in float64; only where that is enabled."""
    model = SEDTalkerModel(dataclasses.replace(talker.model.config, precision=Precision("float64", "float64")))
    return SEDTalker(model, jax.tree.map(lambda x: x.astype(jnp.float64), talker.params), talker.codec, META)


def moving_track(seconds: float) -> EmotionTrack:
    return EmotionTrack.trajectory(["angry", "neutral", "happy"], 1.0, seconds, LABELS)


@pytest.mark.parametrize(("use_residual", "style_residual"), [(True, True), (False, True), (True, False)])
def test_motion_of_many_windows_is_that_of_one_pass(use_residual, style_residual):
    """Exact where what the encoder hears lies within a quarter of the windows' overlap; every second is alike, so that the
    windows have the level of the whole, by which encoders normalise. In double precision: random weights make 1e-4 of float32's
    rounding at some frames."""
    with jax.enable_x64(True):
        talker = in_double_precision(causal_talker(style_residual=style_residual))
        waveform = np.tile(noise(1.0), 13)
        assert len(split(len(waveform), talker.window_s, talker.overlap_s, talker.fps)) == 4
        activations = talker.activations(moving_track(len(waveform) / 16_000), len(waveform))
        face = talker.template(None)
        frames = len(activations)
        whole = animate_rows(
            talker.model,
            talker.params,
            jnp.asarray(waveform, jnp.float64)[None],
            jnp.array([len(waveform)]),
            jnp.asarray(activations, jnp.float64)[None],
            jnp.asarray(talker.codec.template_code(face.vertices))[None],
            jnp.array([frames]),
            fps=talker.fps,
            use_residual=use_residual,
        )[0]
        motion = talker.motion(waveform, activations, face, use_residual=use_residual)
        assert motion.shape == whole.shape and float(jnp.abs(whole).max()) > 0.3
        # What the windows heard is kept in float32.
        np.testing.assert_allclose(motion, whole, atol=1e-5, rtol=0)
    assert np.abs(np.diff(motion, axis=0)).max() > 1e-2, "a shift by one frame would show"


def test_a_stream_is_the_animation_piece_by_piece():
    talker = causal_talker(reach_is_limited=False)
    waveform = noise(5.3)
    track = talker.diarize(waveform)
    whole = talker.animate(waveform, track)
    pieces = list(talker.animate_stream(waveform, track, piece_s=0.5))
    assert [len(piece.vertices) for piece in pieces] == [16] * 9 + [15] and all(piece.track is track for piece in pieces)
    np.testing.assert_allclose(np.concatenate([piece.vertices for piece in pieces]), whole.vertices, atol=1e-6)
    heard = list(talker.animate_stream(waveform))
    np.testing.assert_allclose(np.concatenate([piece.vertices for piece in heard]), whole.vertices, atol=1e-6)


def test_memory_does_not_grow_with_the_recording():
    talker = causal_talker(reach_is_limited=False)
    rises = {}
    for minutes in (1, 1, 4):
        waveform = np.tile(noise(60.0), minutes)
        track = EmotionTrack.trajectory(["happy"], 1.0, 60.0 * minutes, LABELS)

        counted = []

        def run(waveform=waveform, track=track, counted=counted):
            counted.append(sum(len(piece.vertices) for piece in talker.animate_stream(waveform, track)))

        # The first round compiles.
        rises[minutes] = peak_rise(run)
        if rises[minutes] is None:
            pytest.skip("this system does not count a process's peak memory")
        assert counted == [60 * minutes * talker.fps]
    # Of every frame the track at speech and animation frames, in a few copies of 8 bytes a number; and room for the allocator.
    # In one pass the encoder's attention over 4 minutes alone would take a GiB.
    kept = 3 * 60 * (axes.FRAME_RATE + talker.fps) * 4 * 8 * len(LABELS)
    assert rises[4] < rises[1] + kept + 8 * MIB


def test_pieces_of_one_sequence_are_joined_to_it():
    whole = np.random.default_rng(0).normal(size=(100, 3)).astype(np.float32)
    starts = [0, 30, 60]
    joined = np.concatenate(list(join_overlapping([(start, whole[start : start + 40]) for start in starts], 100)))
    np.testing.assert_allclose(joined, whole, atol=1e-6)


def test_the_ends_of_pieces_are_not_heard():
    zeros, ones = np.zeros((40, 1), np.float32), np.ones((40, 1), np.float32)
    joined = np.concatenate(list(join_overlapping([(0, zeros), (24, ones)], 70)))[:, 0]
    # The overlap is [24, 40): its first and last four frames are of one piece alone.
    assert (joined[:28] == 0).all() and (joined[36:] == 1).all() and (np.diff(joined[27:37]) > 0).all()
    # Where the grids of sound and animation don't meet, the last frame is held.
    assert len(joined) == 70 and joined[-1] == 1


def test_what_cannot_stream_is_named():
    with pytest.raises(UserError, match=r"model\.animator\.backbone\.causal is False.*use animate"):
        SEDTalker(tiny_model(), {}, tiny_codec(), META).animate_stream(noise(2.0))
