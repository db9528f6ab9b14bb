"""Long audio: windows cover everything on one grid, and stitching identical pieces gives the whole back."""

import numpy as np
import pytest

from sedtalker_jax import axes
from sedtalker_jax.inference.streaming import join_overlapping
from sedtalker_jax.inference.windows import Window, split, stitch


@pytest.mark.parametrize("fps", [25.0, 30.0, 60.0, 23.976, 29.97, 30_000 / 1_001, 59.94])
@pytest.mark.parametrize("num_samples", [400, 8 * 16_000, 8 * 16_000 + 1, 20 * 16_000 + 777, 100 * 16_000])
def test_windows_cover_the_recording_on_one_grid(num_samples, fps):
    windows = split(num_samples, 8.0, 2.0, fps)
    assert windows[0].start == 0 and windows[-1].stop == num_samples
    for before, after in zip(windows, windows[1:], strict=False):
        assert after.start % axes.FRAME_HOP == 0
        assert before.stop - after.start >= 2 * 16_000
        frames = after.start / axes.SAMPLE_RATE * fps
        assert abs(frames - round(frames)) < (1e-9 if fps.is_integer() else 0.1)
    assert all(400 <= window.stop - window.start <= 8 * 16_000 for window in windows)


def test_stitching_pieces_of_one_sequence_gives_it_back():
    whole = np.random.default_rng(0).normal(size=(100, 3)).astype(np.float32)
    starts = [0, 30, 60]
    pieces = [whole[start : start + 40] for start in starts]
    np.testing.assert_allclose(stitch(pieces, starts, 100), whole, atol=1e-6)


def off_the_grid(num_samples, window_s, overlap_s):
    """Windows that start at whole seconds, wherever animation frames lie."""
    window = int(window_s * axes.SAMPLE_RATE)
    hop = int(window_s - overlap_s) * axes.SAMPLE_RATE
    return [Window(start, min(start + window, num_samples)) for start in range(0, num_samples - window + hop, hop)]


@pytest.mark.parametrize("window_s", [8.0, 12.0, 16.0, 20.0])
def test_the_last_frames_are_held_where_rounding_leaves_them_uncovered(window_s):
    fps, uncovered = 29.97, 0
    for num_samples in range(int(21 * 16_000), int(60 * 16_000), 9_973):
        windows = off_the_grid(num_samples, window_s, 2.0)
        total = axes.num_animation_frames(num_samples, fps)
        starts = [round(window.start / axes.SAMPLE_RATE * fps) for window in windows]
        lengths = [axes.num_animation_frames(window.stop - window.start, fps) for window in windows]
        uncovered += starts[-1] + lengths[-1] < total
        stitched = stitch([np.ones(length, np.float32) for length in lengths], starts, total)
        assert len(stitched) == total
        np.testing.assert_allclose(stitched, 1.0, atol=1e-6)
    assert uncovered


@pytest.mark.parametrize("fps", [23.976, 29.97, 59.94, 30.0])
@pytest.mark.parametrize("window_s", [5.0, 8.0])
def test_pieces_of_one_sequence_join_to_it_whichever_ends_first(window_s, fps):
    ended_before = 0
    # Also lengths that just need one more window, whose last piece is little longer than the overlap.
    hop_s = int(window_s * 3 / 4)
    barely = [int((window_s + hop_s * k) * 16_000) + more for k in range(40) for more in (1, 130, 400)]
    for num_samples in [*range(6 * 16_000, 40 * 16_000, 9_973), *barely]:
        total = axes.num_animation_frames(num_samples, fps)
        whole = np.arange(total + 2, dtype=np.float32)[:, None]
        pieces = []
        for window in off_the_grid(num_samples, window_s, window_s / 4):
            first = round(window.start / axes.SAMPLE_RATE * fps)
            pieces.append((first, whole[first : first + axes.num_animation_frames(window.stop - window.start, fps)]))
        ends = [first + len(piece) for first, piece in pieces]
        ended_before += ends[-1] < max(ends)
        joined = np.concatenate(list(join_overlapping(pieces, total)))
        np.testing.assert_allclose(joined, np.minimum(whole[:total], max(ends) - 1), rtol=1e-6)
    assert bool(ended_before) == (fps != 30.0)


def test_a_cross_fade_rises_steadily_from_one_piece_to_the_next():
    faded = stitch([np.zeros(40, np.float32), np.ones(40, np.float32)], [0, 30], 70)
    assert np.all(faded[:30] == 0) and np.all(faded[40:] == 1)
    assert np.all(np.diff(faded[29:41]) > 0)
