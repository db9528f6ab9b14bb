"""Sound and motion of a face record cover the same time."""

import pytest

from sedtalker_jax.axes import num_animation_frames
from sedtalker_jax.data.faces.corpus import common_length


@pytest.mark.parametrize("fps", [25.0, 29.97, 60.0])
def test_the_frames_kept_are_those_that_the_sound_rounds_to(fps):
    # Among these lengths are some that end in the middle of a frame.
    for num_samples in range(16_000, 32_000, 80):
        longer = num_animation_frames(num_samples, fps) + 2
        frames, samples = common_length(longer, fps, num_samples, "clip")
        assert frames == num_animation_frames(samples, fps)
