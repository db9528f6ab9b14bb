"""Recordings of many windows: stitched windows are the whole recording's result where no window's edge is heard, and memory
grows by what goes in and comes out."""

import dataclasses

import numpy as np
import pytest

from sedtalker_jax import axes
from sedtalker_jax.inference.pipeline import SEDTalker
from sedtalker_jax.inference.windows import split
from sedtalker_jax.models.diarizer import DiarizerConfig
from sedtalker_jax.models.sedtalker import SEDTalkerModel
from sedtalker_jax.speech.audio import StoredWaveform
from sedtalker_jax.speech.resident_memory import peak_rise
from tests.inference.talker import noise
from tests.support import LABELS, random_batch, random_params, tiny_model

WINDOW_S = 4.0
MIB = 2**20


def talker(*, reach_is_limited: bool) -> SEDTalker:
    """A diarizer alone; with limited reach it is convolutions only, normalised frame by frame."""
    config = tiny_model(dropout=0.0, scan="reference").config
    if reach_is_limited:
        encoder = dataclasses.replace(config.encoder, num_hidden_layers=0, feat_extract_norm="layer")
        diarizer = DiarizerConfig(LABELS, None, hidden_sizes=(8,), embedding_size=10)
        config = dataclasses.replace(config, encoder=encoder, diarizer=diarizer, acoustics=None)
    model = SEDTalkerModel(dataclasses.replace(config, animator=None))
    params = random_params(model, {"speech": random_batch(1)["speech"]}, seed=3)
    meta = {"labels": LABELS, "config": {"pipeline": {"max_seconds": WINDOW_S / 2}}}
    return SEDTalker(model, params, None, meta)


def test_stitched_windows_are_the_whole_where_no_edge_is_heard():
    """True of models whose reach is limited, up to the level of a window against that of the whole recording, which encoders
    normalise by: here every second is alike. Attention, bidirectional scans and norms over time hear a whole window, and differ
    from the whole recording everywhere by what they hear outside of it."""
    model = talker(reach_is_limited=True)
    waveform = np.tile(noise(1.0), 18)
    windowed = model.diarize(waveform)
    windows = split(len(waveform), model.window_s, model.overlap_s, model.fps)
    assert len(windows) > 4
    model.window_s = model.pad_to_s = 20.0
    whole = model.diarize(waveform)
    assert whole.num_frames == windowed.num_frames
    difference = np.abs(windowed.probabilities - whole.probabilities).max(axis=1)
    # One positional convolution of 8 frames over features that hear 400 samples, a frame and a quarter.
    reach = model.model.config.encoder.num_conv_pos_embeddings // 2 + 1
    edges = [w.start // axes.FRAME_HOP for w in windows[1:]] + [axes.num_speech_frames(w.stop) for w in windows[:-1]]
    distance = np.abs(np.arange(whole.num_frames)[:, None] - edges).min(axis=1)
    assert difference[distance > reach].max() < 1e-6, "rounding"
    # The cross-fade weighs a frame least where its window ends, so little of the difference is left; some must be.
    assert difference[distance <= reach].max() > 3e-5
    assert np.abs(np.diff(whole.probabilities, axis=0)).max() > 1e-3, "a shift by one frame would show"


def test_a_recording_in_a_file_is_heard_as_one_in_memory():
    model, waveform = talker(reach_is_limited=False), noise(11.0)
    with StoredWaveform(np.array_split(waveform, 3)) as stored:
        np.testing.assert_array_equal(model.diarize(stored).probabilities, model.diarize(waveform).probabilities)


def test_memory_grows_by_what_goes_in_and_comes_out():
    model = talker(reach_is_limited=False)
    minute = noise(60.0)
    model.diarize(minute)  # compiles
    rises = {}
    for minutes in (1, 4):
        waveform = np.tile(minute, minutes)
        rises[minutes] = peak_rise(lambda waveform=waveform: model.diarize(waveform))
    if rises[1] is None:
        pytest.skip("this system does not count a process's peak memory")
    # Of every frame: the windows' logits, intensity and embedding with a third heard twice, and logits stitched in float64.
    kept = 4 * (len(LABELS) + 1 + 10) * 4 / 3 + 3 * 8 * (len(LABELS) + 1)
    # Beside that, 8 MiB for the allocator: holding all windows padded would take 15 MiB more for 4 minutes than for one, and
    # hearing the whole recording at once 3.6 GiB.
    assert rises[4] < rises[1] + 3 * 60 * axes.FRAME_RATE * kept + 8 * MIB
