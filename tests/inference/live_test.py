"""Speech that is still being spoken: frames depend on the sound alone, keep away from its end, and add up to the whole."""

import dataclasses
import functools

import numpy as np
import pytest

from sedtalker_jax import axes
from sedtalker_jax.emotion import EmotionTrack
from sedtalker_jax.errors import UserError
from sedtalker_jax.inference.live import FADE_S, LivePiece, LiveSession
from sedtalker_jax.inference.pipeline import SEDTalker
from sedtalker_jax.models.sedtalker import SEDTalkerModel
from sedtalker_jax.speech.resident_memory import peak_rise
from tests.inference.given_embedding_test import CALM, CROSS, reader
from tests.inference.talker import SUBJECTS, noise, subject_talker, tiny_codec
from tests.support import random_batch, random_params, tiny_model

RATE = axes.SAMPLE_RATE


def in_portions(session: LiveSession, waveform: np.ndarray, *sizes: int) -> list[LivePiece]:
    """All pieces of a recording that is pushed in portions of these sizes, over and over."""
    pieces, start, turn = [], 0, 0
    while start < len(waveform):
        size = sizes[turn % len(sizes)]
        pieces += session.push(waveform[start : start + size])
        start, turn = start + size, turn + 1
    return pieces + session.finish()


def vertices(pieces: list[LivePiece]) -> np.ndarray:
    return np.concatenate([piece.vertices for piece in pieces])


@functools.cache
def spoken() -> np.ndarray:
    return noise(5.03)


@pytest.mark.parametrize(
    ("fps", "options"), [(30.0, {}), (25.0, {}), (29.97, {}), (24.0, {"lookahead_s": 0.0, "step_s": 0.01})]
)
def test_frames_and_speech_frames_add_up_to_the_recording(fps, options):
    talker = subject_talker()
    talker = SEDTalker(talker.model, talker.params, talker.codec, talker.meta | {"fps": fps})
    for seconds in (0.1, 0.34, 2.02, 3.3) if not options else (0.47,):
        waveform = noise(seconds)
        pieces = in_portions(LiveSession(talker, **options), waveform, 701)
        firsts = np.cumsum([0, *(len(piece.vertices) for piece in pieces)])
        assert [piece.first_frame for piece in pieces] == firsts[:-1].tolist()
        assert firsts[-1] == axes.num_animation_frames(len(waveform), fps)
        track = EmotionTrack(
            talker.labels,
            np.concatenate([piece.probabilities for piece in pieces]),
            np.concatenate([piece.intensity for piece in pieces]),
        )
        assert len(track.intensity) == axes.num_speech_frames(len(waveform))


def test_portions_do_not_matter():
    talker, waveform = subject_talker(), spoken()
    whole = in_portions(LiveSession(talker), waveform, len(waveform))
    for sizes in ((1600,), (37, 4001, 1)):
        pieces = in_portions(LiveSession(talker), waveform, *sizes)
        np.testing.assert_array_equal(vertices(pieces), vertices(whole))
        for name in ("probabilities", "intensity"):
            parts = [np.concatenate([getattr(piece, name) for piece in some]) for some in (pieces, whole)]
            np.testing.assert_array_equal(*parts)


def test_a_recording_that_ends_before_anything_is_handed_out_is_animated_whole():
    talker, waveform = subject_talker(), noise(0.9)
    session = LiveSession(talker, lookahead_s=1.0, subject=SUBJECTS[1])
    pieces = in_portions(session, waveform, 1600)
    assert len(pieces) == 1
    whole = talker.animate(waveform, subject=SUBJECTS[1])
    np.testing.assert_allclose(pieces[0].vertices, whole.vertices, atol=1e-6)
    np.testing.assert_allclose(pieces[0].probabilities, whole.track.probabilities, atol=1e-6)


@pytest.mark.parametrize(("lookahead", "step"), [(0.0, 0.1), (0.2, 0.1), (0.35, 0.05), (0.5, 0.3)])
def test_frames_come_in_time_and_never_before_their_lookahead(lookahead, step):
    session, waveform = LiveSession(subject_talker(), lookahead_s=lookahead, step_s=step), spoken()
    pushed, frames = 0, 0
    for start in range(0, len(waveform), 160):
        portion = waveform[start : start + 160]
        pushed += len(portion)
        frames += sum(len(piece.vertices) for piece in session.push(portion))
        now = pushed / RATE
        assert frames == 0 or (frames - 1) / 30 + lookahead <= now + 1e-6
        # The frame that comes next is not overdue: within a step, or half a frame more where frames are rounded.
        assert now < max(0.1, frames / 30 + lookahead) + step + 0.5 / 30 + 1e-6


def test_what_is_said_later_changes_no_frame_that_was_handed_out():
    talker, waveform = subject_talker(), spoken()
    other = waveform.copy()
    other[3 * RATE :] = noise(3.0, seed=9)[: len(other) - 3 * RATE]
    ours, theirs = (vertices(in_portions(LiveSession(talker, lookahead_s=0.3), sound, 800)) for sound in (waveform, other))
    same = int((3.0 - 0.3) * 30)
    np.testing.assert_array_equal(ours[:same], theirs[:same])
    assert np.abs(ours[same + 12 :] - theirs[same + 12 :]).max() > 1e-4


def test_who_hurries_leaves_out_steps_and_no_frames():
    talker, waveform = subject_talker(), noise(9.7)
    session, steps = LiveSession(talker), []
    animated = session._animated
    session._animated = lambda window, felt: steps.append(len(window)) or animated(window, felt)
    pieces = session.push(waveform[:RATE])
    before = len(steps)
    pieces += session.push(waveform[RATE:], hurry=True) + session.finish()
    # Two seconds are heard at once, of which 0.3 are ahead and 0.6 in reserve: some 1.1 s a step instead of 0.1.
    assert before == 8 and len(steps) - before <= 10
    firsts = np.cumsum([0, *(len(piece.vertices) for piece in pieces)])
    assert [piece.first_frame for piece in pieces] == firsts[:-1].tolist()
    whole = in_portions(LiveSession(talker), waveform, 1600)
    for name in ("vertices", "probabilities", "intensity"):
        parts = [np.concatenate([getattr(piece, name) for piece in some]) for some in (pieces, whole)]
        assert parts[0].shape == parts[1].shape and np.isfinite(parts[0]).all()
    # One step at a time there is nothing to leave out.
    slow = LiveSession(talker)
    single = [
        piece for first in range(0, len(waveform), 1600) for piece in slow.push(waveform[first : first + 1600], hurry=True)
    ]
    np.testing.assert_array_equal(vertices(single + slow.finish()), vertices(whole))


def test_neighbouring_steps_are_faded():
    """A model whose motion is another constant at every step: what is shown goes over from one to the next, frame by frame."""
    talker = subject_talker()
    session, made = LiveSession(talker, lookahead_s=0.2), []
    rank = talker.codec.space.basis.shape[0]
    rng = np.random.default_rng(0)

    def animated(window, felt):
        frames = axes.num_animation_frames(len(window), 30)
        track = EmotionTrack.trajectory(["happy"], 1.0, len(window) / RATE, talker.labels)
        made.append(float(rng.normal()))
        return track, np.zeros((frames, len(talker.labels) - 1), np.float32), np.full((frames, rank), made[-1], np.float32)

    session._animated = animated
    pieces = session.push(np.zeros(RATE, np.float32))
    assert len(pieces) == len(made) > 5
    # Steps of 0.1 s hand out 3 of the 9 frames that one makes; the other 6, or as many as FADE_S has, are faded from.
    ahead = np.zeros(0)
    for number, (now, piece) in enumerate(zip(made, pieces, strict=True)):
        fade = min(len(ahead), round(FADE_S * 30))
        assert fade == (0 if number == 0 else 5)
        share = np.arange(1, fade + 1) / (fade + 1)
        expected = np.append(ahead[:fade] * (1 - share) + now * share, np.full(20, now))
        count = len(piece.motion)
        np.testing.assert_allclose(piece.motion, np.repeat(expected[:count, None], rank, axis=1), atol=1e-6)
        ahead = expected[count : count + 5]


@pytest.mark.parametrize("fps", [30.0, 29.0, 29.97, 12.5])
@pytest.mark.parametrize(
    "options", [{"lookahead_s": 0.0, "step_s": 0.01}, {"lookahead_s": 0.1, "step_s": 0.5, "context_s": 1.2}]
)
def test_frames_that_are_shown_keep_what_they_felt(fps, options):
    """A model whose strengths are the frames' numbers: a step is told those of its window's frames that are shown already."""
    talker = subject_talker()
    talker = SEDTalker(talker.model, talker.params, talker.codec, talker.meta | {"fps": fps})
    session, columns, gap = LiveSession(talker, **options), len(talker.labels) - 1, 0.0
    rank = talker.codec.space.basis.shape[0]

    def animated(window, felt):
        nonlocal gap
        first = round((session._end - len(window)) / RATE * fps)
        told = first + np.arange(len(felt))
        assert first + len(felt) == session._frames
        gap = max(gap, np.abs(felt - told[:, None]).max(initial=0.0))
        frames = axes.num_animation_frames(len(window), fps)
        strengths = np.repeat(first + np.arange(frames, dtype=np.float32)[:, None], columns, axis=1)
        track = EmotionTrack.trajectory(["happy"], 1.0, len(window) / RATE, talker.labels)
        return track, strengths, np.zeros((frames, rank), np.float32)

    session._animated = animated
    for _ in range(round(5.0 / options["step_s"])):
        session.push(np.zeros(round(options["step_s"] * RATE), np.float32))
    # Where rounding left the last frame of a window to the next one, that has the strength of its neighbour.
    assert session._frames > 4.8 * fps and gap <= 1.0


def test_a_face_feels_what_it_is_told_from_then_on():
    talker, waveform = subject_talker(), spoken()
    heard = vertices(in_portions(LiveSession(talker), waveform, 1600))
    session = LiveSession(talker)
    before = session.push(waveform[: 2 * RATE])
    session.feel("happy", 0.5)
    during = session.push(waveform[2 * RATE : 4 * RATE])
    session.feel(None)
    after = session.push(waveform[4 * RATE :]) + session.finish()
    np.testing.assert_array_equal(vertices(before), heard[: len(vertices(before))])
    told = np.concatenate([piece.probabilities for piece in during])
    np.testing.assert_array_equal(told, np.tile(np.eye(len(talker.labels))[talker.labels.index("happy")], (len(told), 1)))
    assert all((piece.intensity == 0.5).all() for piece in during)
    assert np.abs(vertices(before + during + after) - heard)[len(vertices(before)) + 6 :].max() > 1e-4
    assert np.concatenate([piece.probabilities for piece in after]).max(axis=1).min() < 0.999
    with pytest.raises(UserError, match="joyous"):
        session.feel("joyous")
    with pytest.raises(UserError, match="intensity"):
        session.feel("happy", 1.5)


def test_an_animator_alone_has_to_be_told():
    model = SEDTalkerModel(dataclasses.replace(tiny_model(dropout=0.0, scan="reference").config, diarizer=None))
    batch = random_batch(1)
    batch = {"face": batch["face"] | {name: batch["speech"][name] for name in ("waveform", "lengths")}}
    talker = SEDTalker(model, random_params(model, batch), tiny_codec(), subject_talker().meta)
    waveform = noise(1.5)
    with pytest.raises(UserError, match="say what the face feels"):
        LiveSession(talker).warm_up()
    session = LiveSession(talker)
    session.feel("sad")
    session.warm_up()
    pieces = in_portions(session, waveform, 1600)
    assert len(vertices(pieces)) == 45


def test_given_embeddings_are_read():
    with pytest.raises(UserError, match="embedding"):
        LiveSession(reader(), lookahead_s=0.0, context_s=0.9).push(noise(0.9))
    calm, cross = (
        in_portions(LiveSession(reader(), lookahead_s=0.0, context_s=0.9, given_embedding=given), noise(0.9), 1600)
        for given in (CALM, CROSS)
    )
    assert np.abs(vertices(calm) - vertices(cross)).max() > 1e-5


def test_memory_does_not_grow_with_the_recording():
    talker = subject_talker()
    rises = {}
    for seconds in (2, 10, 60):
        session, portion = LiveSession(talker, step_s=0.5), noise(2.0)

        def run(session=session, portion=portion, seconds=seconds):
            for _ in range(seconds // 2):
                session.push(portion)

        rises[seconds] = peak_rise(run)
    if rises[60] is None:
        pytest.skip("this system does not say how much memory a process holds")
    assert rises[60] - rises[10] < 4 * 2**20


def test_wrong_times_and_samples_get_one_line():
    talker = subject_talker()
    for options in ({"step_s": 0.0}, {"lookahead_s": -0.1}, {"lookahead_s": 1.5}, {"context_s": 9.0}):
        with pytest.raises(UserError, match="lookahead"):
            LiveSession(talker, **options)
    session = LiveSession(talker)
    for samples in (np.zeros((2, 100)), np.array([0.0, np.nan])):
        with pytest.raises(UserError, match="one channel"):
            session.push(samples)
    assert session.finish() == []
    session.push(np.zeros(100))
    with pytest.raises(UserError, match="at least"):
        session.finish()
