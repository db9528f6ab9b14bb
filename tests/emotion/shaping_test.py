import json
import math

import numpy as np
import pytest

from configs import demo, sedtalker
from sedtalker_jax.emotion import ACTIVE, CANONICAL, EmotionTrack
from sedtalker_jax.emotion.keyframes import KeyFrames, range_weight
from sedtalker_jax.emotion.shaping import EmotionKeys, ShapedTrack, Shaping, ease, strengths
from sedtalker_jax.errors import UserError
from sedtalker_jax.models.emotion_condition import activation
from sedtalker_jax.models.sedtalker import SEDTalkerConfig

HAPPY, SAD = ACTIVE.index("happy"), ACTIVE.index("sad")


def make_track(frames=100, rate=50.0, seed=0):
    p = np.random.default_rng(seed).dirichlet(np.full(8, 0.5), frames)
    return EmotionTrack(CANONICAL, p, np.full(frames, 0.8), rate, 0.0)


def step_track(rate, seconds=2.0):
    frames = int(rate * seconds)
    p = np.zeros((frames, 8))
    late = np.arange(frames) / rate >= 1.0
    p[~late, CANONICAL.index("sad")] = 1.0
    p[late, CANONICAL.index("happy")] = 1.0
    return EmotionTrack(CANONICAL, p, np.ones(frames), rate, 0.0)


def test_defaults_change_nothing_and_are_those_that_the_animator_is_trained_with():
    track = make_track()
    np.testing.assert_allclose(Shaping().apply(track), track.activation(), atol=1e-6)
    logits = np.log(np.maximum(track.probabilities, 1e-9))
    trained = np.asarray(activation(logits, np.nan_to_num(track.intensity, nan=1.0)))
    np.testing.assert_allclose(track.activation(), trained, atol=1e-5)
    for config in (demo.get_config(), sedtalker.get_config()):
        assert config.model.get("sharpness", SEDTalkerConfig.sharpness) == Shaping().contrast == SEDTalkerConfig.sharpness


def test_only_the_strongest_emotions_are_kept_and_not_scaled_up():
    track = make_track()
    shaped = Shaping(max_emotions=2).apply(track)
    full = track.activation()
    assert ((shaped > 0).sum(axis=1) <= 2).all()
    for row, original in zip(shaped, full, strict=True):
        np.testing.assert_allclose(np.sort(row)[-2:], np.sort(original)[-2:], atol=1e-6)
        np.testing.assert_allclose(row[row > 0], original[row > 0], atol=1e-6)


@pytest.mark.parametrize("limit", [0, 8, -1])
def test_limits_on_emotions_are_checked(limit):
    with pytest.raises(UserError, match="between 1 and 7"):
        Shaping(max_emotions=limit)


def test_easing_does_not_depend_on_the_frame_rate_and_does_not_ramp_up_from_zero():
    slow, fast = (Shaping(transition=0.25).apply(step_track(rate)) for rate in (50.0, 200.0))
    assert slow[0, SAD] == pytest.approx(1.0)  # no fade-in from nothing at the beginning
    one_constant_later = [shaped[int((1.0 + 0.25) * rate), HAPPY] for shaped, rate in ((slow, 50.0), (fast, 200.0))]
    assert one_constant_later[0] == pytest.approx(1 - math.exp(-1), abs=0.03)
    assert one_constant_later[1] == pytest.approx(1 - math.exp(-1), abs=0.01)


def test_easing_is_the_recursion():
    x = np.random.default_rng(1).uniform(size=(20, 3))
    keep = math.exp(-1 / (50 * 0.1))
    expected = [x[0]]
    for row in x[1:]:
        expected.append((1 - keep) * row + keep * expected[-1])
    np.testing.assert_allclose(ease(x, 50.0, 0.1), expected)


def test_a_preferred_mood_needs_to_be_given():
    track = make_track()
    np.testing.assert_allclose(Shaping(preferred_strength=0.9).apply(track), track.activation(), atol=1e-6)
    drawn = Shaping(preferred={"happy": 1.0}, preferred_strength=0.25, strength=0.5).apply(track)
    expected = 0.5 * (0.75 * track.activation() + 0.25 * np.eye(7)[HAPPY])
    np.testing.assert_allclose(drawn, expected, atol=1e-6)


def test_audio2emotion_settings():
    shaping = Shaping.audio2emotion()
    assert math.exp(-0.033 / shaping.live_blend) == pytest.approx(0.7)
    shaped = shaping.apply(make_track())
    assert shaped.shape == (100, 7) and 0 <= shaped.min() and shaped.max() <= 0.6


def test_strengths_by_name():
    row = strengths({"joy": 0.5, "sad": 1, "neutral": 0})
    assert (row[HAPPY], row[SAD], row.sum()) == (0.5, 1.0, 1.5)
    for wrong, message in (({"happy": 1.2}, "in \\[0, 1\\]"), ({"neutral": 0.5}, "absence"), ({"hapy": 1}, "did you mean")):
        with pytest.raises(UserError, match=message):
            strengths(wrong)


# ---- key frames ----


def test_key_frames_are_exact_at_keys_and_hold_at_the_ends():
    for interpolation in ("linear", "smooth", "hold"):
        curve = KeyFrames([1.0, 2.0, 4.0], [0.0, 1.0, 0.5], interpolation)
        np.testing.assert_allclose(curve.at([0.0, 1.0, 2.0, 4.0, 9.0]), [0.0, 0.0, 1.0, 0.5, 0.5])
    np.testing.assert_allclose(KeyFrames([1, 2], [0, 1]).at([1.25]), [0.25])
    np.testing.assert_allclose(KeyFrames([1, 2], [0, 1], "hold").at([1.99]), [0.0])
    np.testing.assert_allclose(KeyFrames([1, 2], [0, 1], "smooth").at([1.5, 1.01]), [0.5, 3e-4], atol=3e-6)
    np.testing.assert_allclose(KeyFrames([3.0], [[0.2, 0.4]]).at([0.0, 5.0]), [[0.2, 0.4]] * 2)


@pytest.mark.parametrize(
    "times, values, interpolation, message",
    [
        ([], [], "linear", "at least one key"),
        ([2.0, 1.0], [0, 1], "linear", "1 s follows 2 s"),
        ([1.0, 1.0], [0, 1], "linear", "rising time"),
        ([0.0], [np.nan], "linear", "finite"),
        ([0.0], [1.0], "cubic", "unknown interpolation 'cubic'"),
    ],
)
def test_key_frames_are_checked(times, values, interpolation, message):
    with pytest.raises(UserError, match=message):
        KeyFrames(times, values, interpolation)


def test_ranges_fade_outside_only():
    weight = range_weight(np.array([0.0, 0.8, 0.9, 1.0, 1.5, 2.0, 2.1, 2.2, 3.0]), 1.0, 2.0, 0.2)
    np.testing.assert_allclose(weight, [0, 0, 0.5, 1, 1, 1, 0.5, 0, 0], atol=1e-9)
    np.testing.assert_allclose(range_weight(np.array([-5.0, 5.0]), None, None, 0.0), 1.0)
    with pytest.raises(UserError, match="start < end"):
        range_weight(np.zeros(1), 2.0, 1.0, 0.1)


# ---- user keys ----


def test_keys_override_blend_and_keep_to_their_extent():
    times = np.arange(0, 4, 0.1)
    track = np.tile(np.eye(7)[SAD] * 0.6, (40, 1))
    keys = [{"time": 1.0, "happy": 0.0}, {"time": 2.0, "happy": 1.0}]
    overridden = EmotionKeys.from_list(keys).apply(track, times)
    assert overridden[:, SAD].max() == 0.0 and overridden[15, HAPPY] == pytest.approx(0.5) and overridden[-1, HAPPY] == 1.0
    blended = EmotionKeys.from_list(keys, mode="blend", weight=0.25).apply(track, times)
    np.testing.assert_allclose(blended[-1, [HAPPY, SAD]], [0.25, 0.45])
    local = EmotionKeys.from_list(keys, extent="keys", fade=0.2).apply(track, times)
    np.testing.assert_allclose(local[times < 0.75], track[times < 0.75], atol=1e-6)
    np.testing.assert_allclose(local[times > 2.25], track[times > 2.25], atol=1e-6)
    assert local[15, SAD] == 0.0


def test_keys_from_a_file(tmp_path):
    path = tmp_path / "keys.json"
    path.write_text(json.dumps({"keys": [{"time": 0, "happy": 0.8}], "interpolation": "hold", "mode": "blend", "weight": 1}))
    assert EmotionKeys.load(path).apply(np.zeros((2, 7)), np.array([0.0, 1.0]))[:, HAPPY] == pytest.approx(0.8)


@pytest.mark.parametrize(
    "content, message",
    [
        ("{", "not JSON"),
        ("[]", 'list "keys"'),
        ('{"keys": []}', "no emotion keys"),
        ('{"keys": [{"happy": 1}]}', "needs a 'time'"),
        ('{"keys": [{"time": 1, "hapy": 1}]}', "did you mean 'happy'"),
        ('{"keys": [{"time": 2}, {"time": 1}]}', "rising time"),
        ('{"keys": [{"time": 1}], "speed": 2}', "unknown option"),
        ('{"keys": [{"time": 1}], "mode": "add"}', "override or blend"),
        ('{"keys": [{"time": 1}], "extent": "keys"}', "one key alone"),
        ('{"keys": [{"time": 1%s}]}' % ("0" * 400), "not JSON"),
        ('{"keys": [{"time": 1%s}]}' % ("0" * 5_000), "not JSON"),
        ('{"keys": [{"time": 1}], "fade": "x"}', "fade of the keys must be seconds"),
    ],
)
def test_bad_key_files_are_explained(tmp_path, content, message):
    path = tmp_path / "keys.json"
    path.write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        EmotionKeys.load(path)
    assert "keys.json" in str(caught.value) and "\n" not in str(caught.value)


def test_a_shaped_track_drives_a_face_otherwise_and_is_the_same_track(tmp_path):
    track = make_track()
    keys = EmotionKeys.from_list([{"time": 0.5, "happy": 1.0}, {"time": 1.0, "happy": 1.0}], extent="keys", fade=0.1)
    shaping = Shaping(strength=0.5)
    shaped = ShapedTrack.of(track, shaping, keys)
    np.testing.assert_array_equal(shaped.activation(sharpness=9.0), keys.apply(shaping.apply(track), track.times))
    times = np.array([0.0, 0.7])
    found = shaped.with_labels(tuple(reversed(CANONICAL))).at_times(times, sharpness=2.0)
    np.testing.assert_allclose(found.activation[0], 0.5 * track.activation()[0], atol=1e-6)
    np.testing.assert_allclose(found.activation[1], np.eye(7)[HAPPY], atol=1e-6)
    np.testing.assert_array_equal(ShapedTrack.of(track).activation(), track.activation())
    for name, kept in (("shaped", shaped), ("plain", track)):
        kept.save(tmp_path / f"{name}.csv")
    assert (tmp_path / "shaped.csv").read_text() == (tmp_path / "plain.csv").read_text()
