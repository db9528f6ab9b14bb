"""The mouth against the envelope: a mouth that follows is told from one that does not."""

import types

import numpy as np
import pytest

from sedtalker_jax.errors import UserError
from sedtalker_jax.evaluation import real_speech
from sedtalker_jax.evaluation.lip_metrics import speech_envelope
from sedtalker_jax.face.lip_points import FLAME_LIP_POINTS

FPS, SECONDS = 30.0, 6.0


def waveform(seed=0):
    """Noise in syllables of irregular length."""
    rng = np.random.default_rng(seed)
    loudness = np.interp(np.arange(int(SECONDS * 16_000)) / 16_000, np.cumsum(rng.uniform(0.08, 0.25, 60)), rng.random(60))
    return (0.3 * loudness * rng.normal(size=len(loudness))).astype(np.float32)


class Talker:
    """A model whose lips open by the envelope of a recording, `late` frames after it."""

    fps = FPS

    def __init__(self, heard, late=0, topology="flame"):
        self.heard, self.late = heard, late
        self.codec = types.SimpleNamespace(space=types.SimpleNamespace(topology=topology))

    def animate(self, waveform):
        frames = round(len(waveform) / 16_000 * FPS)
        opening = np.roll(speech_envelope(self.heard, 16_000, FPS, frames), self.late)
        vertices = np.zeros((frames, max(FLAME_LIP_POINTS) + 1, 3))
        vertices[:, FLAME_LIP_POINTS[0], 1] = 1e-3 + 1e-2 * opening
        return types.SimpleNamespace(vertices=vertices)


def test_a_mouth_that_follows_is_above_chance_and_its_lag_is_found():
    sound = waveform()
    fit = real_speech.envelope_fit(Talker(sound, late=2), sound)
    assert fit.lag_frames == 2 and fit.correlation > 0.98 > fit.chance


def test_a_mouth_of_another_recording_is_not():
    fit = real_speech.envelope_fit(Talker(waveform(1)), waveform(2))
    assert fit.correlation < fit.chance + 0.15


def test_an_unknown_topology_is_named():
    with pytest.raises(UserError, match="'blob'"):
        real_speech.envelope_fit(Talker(waveform(), topology="blob"), waveform())


def test_a_missing_checkpoint_gets_one_line(tmp_path, capsys):
    assert real_speech.main(["x.wav", "--checkpoint", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("error: ")
