import copy
import pickle

import numpy as np
import pytest

from sedtalker_jax.data import cross_fade as cf
from sedtalker_jax.data.faces.corpus import constant_activation
from sedtalker_jax.data.faces.space_fit import fit_space
from sedtalker_jax.data.faces.surface import Surface
from sedtalker_jax.data.index import RecordIndex, index_row
from sedtalker_jax.emotion.labels import ACTIVE
from sedtalker_jax.errors import UserError
from sedtalker_jax.face.template import FaceTemplate

ROWS = COLUMNS = 14
V, F, FPS = ROWS * COLUMNS, 120, 30.0
HAPPY, ANGRY = ACTIVE.index("happy"), ACTIVE.index("angry")


def grid():
    """A sheet of 14 x 14 vertices: top rows are the upper face, a patch below the lips."""
    y, x = np.meshgrid(np.linspace(0.1, -0.1, ROWS), np.linspace(-0.08, 0.08, COLUMNS), indexing="ij")
    vertices = np.stack([x, y, np.zeros_like(x)], -1).reshape(-1, 3)
    corner = (np.arange(ROWS - 1)[:, None] * COLUMNS + np.arange(COLUMNS - 1)).ravel()
    faces = np.concatenate([
        np.stack([corner, corner + COLUMNS, corner + 1], 1),
        np.stack([corner + 1, corner + COLUMNS, corner + COLUMNS + 1], 1),
    ])  # fmt: skip
    number = np.arange(V).reshape(ROWS, COLUMNS)
    return vertices, faces, {"upper_face": number[:5].ravel(), "lips": number[9:12, 5:9].ravel()}


@pytest.fixture(scope="module")
def space():
    vertices, faces, regions = grid()
    smooth = np.stack([np.cos((i + 1) * vertices[:, [1]] * 12 + j * vertices[:, [0]] * 9) * np.eye(3)[d]
                       for i in range(3) for j in range(3) for d in range(3)])  # fmt: skip
    motion = np.tensordot(np.random.default_rng(0).normal(0, 0.002, (200, len(smooth))), smooth, 1)
    template = FaceTemplate("head", "sheet", vertices, faces, regions)
    return fit_space([motion], 27, surface=Surface("sheet", faces, regions, {}), templates=[template], fps=FPS)


@pytest.fixture(scope="module")
def projections(space):
    return cf.region_projections(space, 2)


def masks_of(space, smoothing):
    return cf.region_masks(V, space.faces, space.regions, smoothing)


def record(space, name, expression, strength, *, talk=0, face=None, **fields):
    """A clip: the talk of a recording plus a constant offset of its expression."""
    talking = np.cumsum(np.random.default_rng(talk).normal(0, 3e-4, (F, space.rank)), axis=0)
    offset = np.random.default_rng(sum(map(ord, expression))).normal(0, 0.01, space.rank) * strength
    return {
        "id": name, "speaker": "s", "sentence": f"sentence{talk}", "template": "head", "fps": FPS, "num_samples": 64_000,
        "motion": (talking + offset).astype(np.float32), "expression": expression, "strength": strength,
        "activation": constant_activation(expression, strength, F).astype(np.float16), "segments": [], "corpus": "toy",
        "audio": np.full(4, talk, np.uint8), "condition": "schedule", "residual": b"x", "residual_bits": 8, **fields,
    }  # fmt: skip


@pytest.fixture(scope="module")
def clips(space):
    return [record(space, "n", "neutral", 0.0), record(space, "h3", "happy", 1.0), record(space, "a1", "angry", 1 / 3)]


def test_a_fade_is_a_pure_function_of_its_seed(clips, projections):
    before = copy.deepcopy(clips)
    one, again, other = (
        cf.cross_fade(clips, projections, [1.2, 2.6], np.random.default_rng(seed)) for seed in (3, 3, 4)
    )  # fmt: skip
    np.testing.assert_array_equal(one["motion"], again["motion"])
    assert one["fade"] == again["fade"] != other["fade"]
    for old, new in zip(before, clips, strict=True):
        assert old.keys() == new.keys() and all(np.array_equal(old[key], new[key]) for key in old)


def test_it_starts_as_the_first_clip_and_ends_as_the_last(clips, projections):
    faded = cf.cross_fade(clips, projections, [1.2, 2.6], np.random.default_rng(0))
    np.testing.assert_allclose(faded["motion"][:10], clips[0]["motion"][:10], atol=1e-6)
    np.testing.assert_allclose(faded["motion"][-10:], clips[2]["motion"][-10:], atol=1e-6)
    activation = faded["activation"].astype(np.float32)
    assert not activation[:10].any() and activation[55, HAPPY] == 1.0
    np.testing.assert_allclose(activation[-10:, ANGRY], 1 / 3, atol=1e-3)
    assert activation[-10:, HAPPY].max() == 0.0
    assert faded["truth"] == "constructed" and faded["condition"] == "schedule" and "residual" not in faded
    assert faded["expression"] == "" and faded["id"] == "n+h3+a1"
    assert [change["to"] for change in faded["fade"]["changes"]] == [["happy", 1.0], ["angry", pytest.approx(1 / 3)]]


def test_fading_a_motion_into_itself_changes_nothing(space, projections):
    same = [record(space, "a", "happy", 1.0), record(space, "b", "happy", 1.0)]
    faded = cf.cross_fade(same, projections, [2.0], np.random.default_rng(1))
    np.testing.assert_allclose(faded["motion"], same[0]["motion"], atol=1e-6)
    np.testing.assert_allclose(faded["activation"], same[0]["activation"], atol=1e-3)


def test_coefficients_are_the_projected_blend_of_vertices(space, clips, projections):
    """The definition, computed with vertices and masks."""
    rng = np.random.default_rng(5)
    faded = cf.cross_fade(clips[:2], projections, [2.0], rng)
    times = np.arange(F) / FPS
    masks = masks_of(space, 2)
    x1, x2 = (space.displacements(clip["motion"]) for clip in clips[:2])
    blend = np.zeros_like(x1, np.float64)
    for r, name in enumerate(cf.REGIONS):
        region = faded["fade"]["changes"][0]["regions"][name]
        step = cf.smooth_step(times, region["centre_s"], region["length_s"])[:, None, None]
        blend += masks[:, r][None, :, None] * ((1 - step) * x1 + step * x2)
    np.testing.assert_allclose(faded["motion"], space.coefficients(blend), atol=2e-6)


def test_masks_cover_the_face_once_and_softly(space):
    masks = masks_of(space, 4)
    np.testing.assert_allclose(masks.sum(1), 1.0)
    assert masks.min() >= 0 and masks[0, 0] == pytest.approx(1.0)
    across = np.abs(masks.reshape(ROWS, COLUMNS, 3)[1:] - masks.reshape(ROWS, COLUMNS, 3)[:-1]).max()
    assert across < 0.4
    np.testing.assert_allclose(cf.region_projections(space, 4).sum(0), np.eye(space.rank), atol=1e-6)


def test_regions_go_at_their_own_pace_and_the_face_lags_behind_the_schedule(clips, projections):
    lags, upper_first, longer_decay = [], [], []
    for seed in range(200):
        faded = cf.cross_fade([clips[0], clips[1], clips[0]], projections, [1.2, 2.8], np.random.default_rng(seed))["fade"]
        up, down = faded["changes"]
        lags.append(faded["lag_s"])
        upper_first.append(up["regions"]["upper_face"]["centre_s"] < up["regions"]["lips"]["centre_s"])
        longer_decay.append(down["length_s"] - up["length_s"])
        assert abs(up["regions"]["rest"]["centre_s"] - 1.2 - faded["lag_s"]) < 0.3
    config = cf.FadeConfig()
    assert np.mean(lags) == pytest.approx(config.lag_mean, abs=0.02) and np.max(np.abs(lags)) <= config.lag_limit
    assert np.mean(upper_first) > 0.75 and np.mean(longer_decay) > 0.15


def test_a_fade_adds_no_jerk_to_speak_of(space, clips, projections):
    jerk = np.linalg.norm(np.diff(clips[0]["motion"], n=3, axis=0), axis=-1).mean()
    for seed in range(20):
        faded = cf.cross_fade(clips[:2], projections, [2.0], np.random.default_rng(seed))
        moving = np.linalg.norm(np.diff(faded["motion"][45:80], n=3, axis=0), axis=-1).mean()
        assert moving < 1.25 * jerk


@pytest.mark.parametrize("duration, most", [(0.7, 0), (0.9, 1), (2.0, 2), (6.0, 3)])
def test_changes_keep_their_distance(duration, most):
    config = cf.FadeConfig()
    counts = set()
    for seed in range(300):
        times = cf.change_times(duration, config, np.random.default_rng(seed))
        counts.add(len(times))
        if len(times):
            assert times[0] >= config.margin and times[-1] <= duration - config.margin + 1e-9
            assert (np.diff(times) >= config.min_gap - 1e-9).all()
    assert counts == (set(range(1, most + 1)) or {0})


def test_weights_sum_to_one_even_when_changes_overlap():
    weights = cf.fade_weights(np.linspace(0, 3, 50), [1.0, 1.3, 2.0], [0.9, 0.9, 0.1])
    np.testing.assert_allclose(weights.sum(1), 1.0)
    assert weights.min() >= 0 and weights[0, 0] == 1.0 and weights[-1, -1] == 1.0


def test_clips_of_one_recording_are_found_and_drawn(space):
    made = [
        record(space, "n0", "neutral", 0.0), record(space, "h1", "happy", 1 / 3), record(space, "h3", "happy", 1.0),
        record(space, "other sentence", "happy", 1.0, talk=1), record(space, "other voice", "happy", 1.0, speaker="t"),
        record(space, "same again", "happy", 1.0, talk=1), {**record(space, "?", "sad", 0.0, talk=1), "expression": ""},
        record(space, "a1", "angry", 1 / 3), record(space, "other sound", "sad", 1.0, audio=np.zeros(5, np.uint8) + 9),
    ]  # fmt: skip
    index = RecordIndex.from_rows([index_row(clip) for clip in made])
    (rows,) = cf.same_recording(index)
    assert rows.tolist() == [0, 1, 2, 7]
    # The same sound at half the frame rate, as of a data set that was prepared with every other frame, fades with no other.
    slow = {**made[2], "id": "slow", "fps": made[2]["fps"] / 2}
    (alone,) = cf.same_recording(RecordIndex.from_rows([index_row(clip) for clip in [*made, slow]]))
    assert alone.tolist() == rows.tolist()
    firsts, seen = [], set()
    for seed in range(400):
        chosen = cf.draw_rows(rows, index, 2, np.random.default_rng(seed))
        assert len(chosen) == 3 and all(a != b for a, b in zip(chosen, chosen[1:], strict=False))
        firsts.append(made[chosen[0]]["expression"] == "neutral")
        seen.update(chosen)
    assert seen == {0, 1, 2, 7} and 0.5 < np.mean(firsts) < 0.8


def test_one_call_fades_a_recording_of_a_reader(space, clips, projections):
    index = RecordIndex.from_rows([index_row(clip) for clip in clips])
    (rows,) = cf.same_recording(index)
    faded = cf.fade_recording(clips, index, rows, projections, np.random.default_rng(2))
    times = [change["time_s"] for change in faded["fade"]["changes"]]
    assert faded["truth"] == "constructed" and 1 <= len(times) <= 3 and max(times) < 3.6
    short = [{**clip, "num_samples": 8_000} for clip in clips]
    index = RecordIndex.from_rows([index_row(clip) for clip in short])
    assert cf.fade_recording(short, index, rows, projections, np.random.default_rng(2))["id"] in {"n", "h3", "a1"}


def test_a_share_of_the_rows_fades_and_the_others_are_read_as_they_are(space, clips):
    made = [*clips, record(space, "alone", "happy", 1.0, talk=5)]
    index = RecordIndex.from_rows([index_row(clip) for clip in made])
    fader = pickle.loads(pickle.dumps(cf.CrossFader(index, space, cf.FadeConfig(share=0.3))))
    assert fader.num_rows == 3
    got = [fader(made, row, np.random.default_rng([seed, row])) for seed in range(200) for row in range(4)]
    faded = [clip.get("truth") == "constructed" for clip in got]
    assert not any(faded[3::4]) and 0.25 < np.mean(faded) / 0.75 < 0.35
    assert got[3] is made[3]


def test_what_does_not_belong_together_is_refused(space, clips, projections):
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="not one recording"):
        cf.cross_fade([clips[0], record(space, "x", "happy", 1.0, fps=60.0)], projections, [1.0], rng)
    with pytest.raises(ValueError, match="2 records need 1 times"):
        cf.cross_fade(clips[:2], projections, [1.0, 2.0], rng)
    with pytest.raises(UserError, match="names no upper_face and no lips"):
        cf.region_masks(V, space.faces, {}, 2)
