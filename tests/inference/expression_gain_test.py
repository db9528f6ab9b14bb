"""The expression gain is the factor by which true faces change more than the animator's, whatever else they do."""

import numpy as np
import pytest

from sedtalker_jax import axes
from sedtalker_jax.emotion.labels import ACTIVE
from sedtalker_jax.inference.editing import GAIN_RANGE, fit_expression_gain
from tests.inference.talker import noise, tiny_talker
from tests.support import LABELS


def record(number: int, gain: float, *, speech: float = 0.0) -> dict:
    """A face that changes `gain` times as much with its emotion as the animator's, and by `speech` metres beside it."""
    talker, waveform = tiny_talker(), noise(0.7 + 0.1 * number, number)
    frames = axes.num_animation_frames(len(waveform), talker.fps)
    rng = np.random.default_rng(number)
    activation = np.zeros((frames, len(ACTIVE)), np.float32)
    activation[:, rng.integers(len(ACTIVE))] = rng.uniform(0.4, 1.0)
    template = talker.templates()[number % 2]
    columns = activation[:, [ACTIVE.index(name) for name in LABELS[1:]]]
    still, moved = (talker.motion(waveform, a, talker.template(template)) for a in (np.zeros_like(columns), columns))
    motion = (still + gain * (moved - still)) * talker.codec.motion_std + talker.codec.motion_mean
    change = (moved - still) * talker.codec.motion_std
    other = rng.normal(size=change.shape)
    other -= np.vdot(other, change) / np.vdot(change, change) * change
    return {"waveform": waveform, "activation": activation, "template": template, "motion": motion + speech * other}


@pytest.fixture(scope="module")
def faces():
    return [record(number, 1.4) for number in range(3)]


def test_the_gain_of_faces_comes_back(faces):
    assert fit_expression_gain(tiny_talker(), faces) == pytest.approx(1.4, rel=1e-4)


def test_what_does_not_vary_with_the_emotion_cancels():
    assert fit_expression_gain(tiny_talker(), [record(number, 1.4, speech=0.01) for number in range(3)]) == pytest.approx(
        1.4, rel=1e-3
    )


@pytest.mark.parametrize(("gain", "wanted"), [(0.3, GAIN_RANGE[0]), (5.0, GAIN_RANGE[1])])
def test_it_stays_in_its_range(gain, wanted):
    assert fit_expression_gain(tiny_talker(), [record(0, gain)]) == wanted


def test_faces_without_a_known_emotion_or_template_are_left_out(faces):
    loud = record(3, 2.0)
    unknown = [{**loud, "activation": np.full_like(loud["activation"], np.nan)}, {**loud, "template": "whoever"}]
    assert fit_expression_gain(tiny_talker(), unknown) == 1.0
    assert fit_expression_gain(tiny_talker(), [*faces, *unknown]) == pytest.approx(1.4, rel=1e-4)


def test_a_face_of_one_frame_more_than_its_sound_counts_as_far_as_the_sound_goes(faces):
    longer = [
        {**face, **{name: np.concatenate([face[name], face[name][-1:]]) for name in ("motion", "activation")}} for face in faces
    ]
    assert fit_expression_gain(tiny_talker(), longer) == pytest.approx(1.4, rel=1e-4)


def test_a_face_that_ends_before_its_sound_counts_as_far_as_it_goes(faces):
    short = [{**face, "motion": face["motion"][:-4], "activation": face["activation"][:-4]} for face in faces]
    assert fit_expression_gain(tiny_talker(), short) == pytest.approx(1.4, rel=2e-2)
