"""The model in the user's hands: many recordings at once are heard as each alone."""

import flax
import numpy as np
import pytest

from sedtalker_jax.errors import UserError
from sedtalker_jax.inference.pipeline import SEDTalker
from tests.inference.talker import WINDOW_S, noise, tiny_talker


def test_many_recordings_are_heard_as_each_alone():
    talker = tiny_talker()
    # Two lengths of padding, one recording of several windows, and more windows than fill whole batches.
    waveforms = [noise(seconds, seed) for seed, seconds in enumerate((0.3, 0.9, 2.6 * WINDOW_S, 0.45, 0.7))]
    together = talker.diarize_many(waveforms, batch_size=2)
    for waveform, track in zip(waveforms, together, strict=True):
        alone = talker.diarize(waveform)
        assert track.duration == alone.duration
        np.testing.assert_allclose(track.probabilities, alone.probabilities, atol=1e-5)
        np.testing.assert_allclose(track.intensity, alone.intensity, atol=1e-5)
    assert np.abs(together[0].probabilities[:10] - together[3].probabilities[:10]).max() > 1e-3


def test_what_was_heard_to_be_animated_needs_no_encoder():
    talker, waveform = tiny_talker(), noise(2.5)
    deaf = SEDTalker(talker.model, {**talker.params, "encoder": {}}, talker.codec, talker.meta)
    heard = talker.hear(waveform, to_animate=True)
    given = talker.activations(talker.combine(heard), len(waveform)), talker.template(None)
    np.testing.assert_allclose(deaf.motion(waveform, *given, heard=heard), talker.motion(waveform, *given), atol=1e-5)
    with pytest.raises(flax.errors.ScopeParamNotFoundError):
        deaf.motion(waveform, *given, heard=talker.hear(waveform))


def test_one_recording_that_is_too_short_is_refused():
    with pytest.raises(UserError, match="0.1 s"):
        tiny_talker().diarize_many([noise(0.5), noise(0.05)])
