import json

import numpy as np
import pytest

from sedtalker_jax.emotion.editing import WITHIN_REACH, EditDictionary, compose, segment_embeddings
from sedtalker_jax.emotion.keyframes import KeyFrames
from sedtalker_jax.emotion.pacing import STEADY
from sedtalker_jax.emotion.schedule import Edit, EditSchedule
from sedtalker_jax.errors import UserError

LABELS = ("angry", "happy", "neutral", "sad")
C = 10


def labelled_embeddings(seed=0, per_class=60, spread=1.0):
    """Gaussian classes with one strongly skewed covariance, and means apart from each other."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(C, C)) * np.linspace(0.1, 3.0, C)
    means = rng.normal(size=(len(LABELS), C)) * 3
    names = np.repeat(LABELS, per_class)
    z = means[np.repeat(np.arange(len(LABELS)), per_class)] + spread * rng.normal(size=(len(names), C))
    return z @ mixing + 5.0, names


@pytest.fixture(scope="module")
def dictionary():
    return EditDictionary.fit(*labelled_embeddings())


def test_whitening_whitens(dictionary):
    e, _ = labelled_embeddings()
    z = dictionary.whiten(e)
    np.testing.assert_allclose(z.mean(0), 0, atol=1e-9)
    # Every direction has variance one, but for the small ridge that keeps still directions from being blown up.
    variances = np.linalg.eigvalsh(np.cov(e, rowvar=False))
    expected = variances / (variances + 1e-3 * variances.mean())
    np.testing.assert_allclose(np.linalg.eigvalsh(np.cov(z, rowvar=False)), np.sort(expected), rtol=1e-6)
    assert np.median(expected) > 0.97
    np.testing.assert_allclose(dictionary.whitening @ dictionary.colouring, np.eye(C), atol=1e-9)


def test_normals_are_unit_and_alpha_one_reaches_the_target_mean(dictionary):
    e, names = labelled_embeddings()
    for source in LABELS:
        for target in LABELS:
            if source == target:
                continue
            direction = dictionary.direction(target, source)
            assert np.linalg.norm(direction.normal) == pytest.approx(1.0)
            assert direction.scale > 0
            moved = e[names == source].mean(0) + direction.step
            arrived = dictionary.whiten(moved) @ direction.normal
            assert arrived == pytest.approx(dictionary.whiten(e[names == target].mean(0)) @ direction.normal)


def test_the_boundary_lies_where_it_is_said_to(dictionary):
    e, names = labelled_embeddings()
    for source, target in (("sad", "happy"), ("neutral", "angry")):
        direction = dictionary.direction(target, source)
        assert 0 < direction.boundary_alpha < 1
        j, k = LABELS.index(source), LABELS.index(target)
        start = e[names == source].mean(0)
        for alpha, sign in ((direction.boundary_alpha - 0.01, -1), (direction.boundary_alpha + 0.01, 1)):
            z = dictionary.whiten(start + alpha * direction.step)
            assert np.sign(dictionary.pair_weights[j, k] @ z + dictionary.pair_biases[j, k]) == sign
        back = dictionary.direction(source, target)
        np.testing.assert_allclose(back.normal, -direction.normal)
        assert back.boundary_alpha == pytest.approx(1 - direction.boundary_alpha)


def heads(dictionary, doubt=3.0):
    """Heads that read a posterior times an intensity, which differs between frames and grows with the distance from neutral."""

    def read(embeddings):
        scores = dictionary.scores(embeddings) / doubt
        posterior = np.exp(scores - scores.max(axis=1, keepdims=True))
        posterior /= posterior.sum(axis=1, keepdims=True)
        z = dictionary.whiten(embeddings) - dictionary.class_means[LABELS.index("neutral")]
        intensity = 1 / (1 + np.exp(1.0 - 0.6 * np.linalg.norm(z, axis=1)))
        return posterior * intensity[:, None] * (np.array(LABELS) != "neutral"), intensity

    return read


def read_at_one(dictionary, read, target, source):
    """Mean strength that is read of the target when frames of the source (of neutral for None) are edited by alpha = 1."""
    e, names = labelled_embeddings()
    rows, step = e[names == (source or "neutral")], dictionary.direction(target, source).step
    return read(dictionary.displace(rows, np.tile(step, (len(rows), 1))).embeddings)[0][:, LABELS.index(target)].mean()


@pytest.mark.parametrize(("target", "source"), [("happy", "sad"), ("sad", "angry"), ("angry", "neutral"), ("happy", None)])
def test_scaled_to_reading_alpha_one_reads_the_targets_usual_intensity(dictionary, target, source):
    e, names = labelled_embeddings()
    read = heads(dictionary)
    scaled = dictionary.scaled_to_reading(read, e, names)
    usual = read(e[names == target])[1].mean()
    assert read_at_one(scaled, read, target, source) == pytest.approx(usual, abs=0.01)
    assert read_at_one(dictionary, read, target, source) < usual - 0.05, "at the mean of the target it is in doubt"


def test_scaled_to_reading_only_the_scale_changes_and_towards_neutral_nothing(dictionary):
    scaled = dictionary.scaled_to_reading(heads(dictionary), *labelled_embeddings())
    for target, source in (("happy", "sad"), ("sad", None)):
        old, new = dictionary.direction(target, source), scaled.direction(target, source)
        np.testing.assert_array_equal(new.normal, old.normal)
        np.testing.assert_allclose(new.step / new.scale, old.step / old.scale)
        assert new.boundary_alpha * new.scale == pytest.approx(old.boundary_alpha * old.scale), "the boundary stays"
    np.testing.assert_array_equal(scaled.direction("neutral", "sad").step, dictionary.direction("neutral", "sad").step)


def test_a_strength_that_is_never_read_is_not_asked_for(dictionary):
    e, names = labelled_embeddings()

    def shy(embeddings):
        strengths, intensity = heads(dictionary)(embeddings)
        return 0.4 * strengths, intensity

    scaled = dictionary.scaled_to_reading(shy, e, names)
    furthest = [dictionary.displace(e[names == "sad"], np.tile(f * dictionary.direction("happy", "sad").step, (60, 1)))
                for f in np.linspace(0, 20, 81)]  # fmt: skip
    most = max(shy(result.embeddings)[0][:, LABELS.index("happy")].mean() for result in furthest)
    assert read_at_one(scaled, shy, "happy", "sad") == pytest.approx(WITHIN_REACH * most, abs=0.01)
    assert scaled.direction("happy", "sad").scale < 0.9 * dictionary.bound


def test_where_no_frame_tells_the_means_decide(dictionary):
    e, names = labelled_embeddings()
    kept = names != "sad"
    scaled = dictionary.scaled_to_reading(heads(dictionary), e[kept], names[kept])
    others = dictionary.scaled_to_reading(heads(dictionary), e, names)
    # Frames of other emotions stand in for the sad ones that are missing.
    assert scaled.direction("happy", "sad").scale not in (
        dictionary.direction("happy", "sad").scale,
        others.direction("happy", "sad").scale,
    )
    assert scaled.direction("happy", "angry").scale == others.direction("happy", "angry").scale
    nothing = dictionary.scaled_to_reading(heads(dictionary), e[:0], names[:0])
    np.testing.assert_array_equal(nothing.scales, dictionary.scales)
    # Heads that read the target everywhere as strong as it ever is leave nothing to measure.
    deaf = dictionary.scaled_to_reading(lambda x: (np.ones((len(x), len(LABELS))), np.full(len(x), 0.5)), e, names)
    np.testing.assert_array_equal(deaf.scales, dictionary.scales)


def test_scores_tell_emotions_apart_and_rise_along_the_edit(dictionary):
    e, names = labelled_embeddings(1)
    e0, names0 = labelled_embeddings(0)
    assert np.mean(np.array(LABELS)[dictionary.scores(e0).argmax(1)] == names0) > 0.97
    held_out = dictionary.scores(e0[names0 == "sad"])
    step = dictionary.direction("happy", "sad").step
    happy = LABELS.index("happy")
    before, after = held_out, dictionary.scores(e0[names0 == "sad"] + step)
    assert (after[:, happy] > before[:, happy]).all()
    alphas = np.linspace(-1, 2, 21)
    own = dictionary.direction("happy").step
    curve = [dictionary.scores(e0[0] + alpha * own)[happy] for alpha in alphas]
    assert (np.diff(curve) > 0).all()


def test_edits_are_local_and_leave_other_frames_bit_by_bit(dictionary):
    e = labelled_embeddings()[0][:100].astype(np.float32)
    times = np.arange(100) * 0.02
    schedule = EditSchedule((Edit("happy", 0.4, start=0.8, end=1.2, fade=0.1),))
    result = dictionary.apply(e, times, schedule)
    outside = (times < 0.7 - 1e-9) | (times > 1.3 + 1e-9)
    np.testing.assert_array_equal(result.embeddings[outside], e[outside])
    inside = (times >= 0.8) & (times <= 1.2) & ~result.clipped
    assert inside.sum() > 10
    expected = e[inside] + 0.4 * dictionary.direction("happy").step
    np.testing.assert_allclose(result.embeddings[inside], expected, rtol=1e-4, atol=1e-4)
    assert result.embeddings.dtype == np.float32
    nothing = dictionary.apply(e, times, EditSchedule((Edit("happy", 0.0),)))
    np.testing.assert_array_equal(nothing.embeddings, e)
    assert not nothing.clipped.any()


def test_edits_add_up_in_any_order(dictionary):
    e = np.tile(dictionary.mean, (20, 1))
    times = np.arange(20) * 0.02
    first, second = EditSchedule((Edit("happy", 0.2),)), EditSchedule((Edit("sad", -0.1, source="neutral"),))
    both = dictionary.apply(e, times, first + second)
    np.testing.assert_allclose(both.embeddings, dictionary.apply(e, times, compose([second, first])).embeddings)
    steps = 0.2 * dictionary.direction("happy").step - 0.1 * dictionary.direction("sad", "neutral").step
    np.testing.assert_allclose(both.embeddings - e, np.tile(steps, (20, 1)), atol=1e-9)


def test_what_is_read_paces_the_way_and_moves_no_end(dictionary):
    e, times = labelled_embeddings()[0][::20], np.arange(12) * 0.02

    def read(rows):
        return 1.0 / (1.0 + np.exp(-dictionary.scores(rows))), np.zeros(len(rows))

    def edited(alpha, **options):
        return dictionary.apply(e, times, EditSchedule((Edit("happy", alpha),)), **options).embeddings

    for alpha in (-1.0, 0.0, 1.0, 1.4):
        np.testing.assert_array_equal(edited(alpha, read=read), edited(alpha))
    constant = edited(0.4, read=lambda rows: (np.zeros((len(rows), len(LABELS))), np.zeros(len(rows))))
    np.testing.assert_allclose(constant, edited(0.4), atol=1e-9)
    # Half-way is half of the change of each frame, but for what STEADY makes of it, and lies on the same line.
    start, middle, end = (edited(alpha, read=read) for alpha in (0.0, 0.5, 1.0))
    first, second = (np.abs(read(b)[0] - read(a)[0]).sum(axis=1) for a, b in ((start, middle), (middle, end)))
    moving = first + second > 0.2
    assert moving.sum() >= 6
    np.testing.assert_allclose((first / (first + second))[moving], 0.5, atol=0.5 * STEADY / (1 - STEADY) + 0.05)
    way, whole = middle - start, end - start
    np.testing.assert_allclose(way, (way @ whole[0] / (whole[0] @ whole[0]))[:, None] * whole, atol=1e-8)


def test_edits_stop_at_the_bound_and_say_so(dictionary):
    e = labelled_embeddings()[0][:40]
    result = dictionary.apply(e, np.arange(40) * 0.02, EditSchedule((Edit("happy", 5.0),)))
    distance = np.linalg.norm(dictionary.whiten(result.embeddings), axis=1)
    assert result.clipped.any()
    assert distance.max() <= dictionary.bound * (1 + 1e-9)
    np.testing.assert_allclose(distance[result.clipped], dictionary.bound, rtol=1e-9)
    # A frame that is outside already is not pulled in, and may not go further out.
    far = dictionary.mean + 3 * dictionary.bound * dictionary.colouring[0] / np.linalg.norm(
        dictionary.colouring[0] @ dictionary.whitening
    )
    for alpha in (-1.0, 1.0):
        moved = dictionary.apply(far[None], np.zeros(1), EditSchedule((Edit("happy", alpha),))).embeddings
        assert np.linalg.norm(dictionary.whiten(moved)) <= np.linalg.norm(dictionary.whiten(far)) * (1 + 1e-9)


def test_dictionaries_come_back_from_files(dictionary, tmp_path):
    path = tmp_path / "edits.npz"
    dictionary.save(path)
    loaded = EditDictionary.load(path)
    assert loaded.labels == dictionary.labels and loaded.bound == dictionary.bound
    np.testing.assert_array_equal(loaded.direction("happy", "sad").step, dictionary.direction("happy", "sad").step)
    with np.load(path) as data:
        arrays = dict(data)
    del arrays["format"], arrays["scales"]
    np.savez(tmp_path / "old.npz", **arrays)
    with pytest.raises(UserError, match="old.npz: an edit dictionary of another version of this project; evaluate.py fits it"):
        EditDictionary.load(tmp_path / "old.npz")
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match="edits.npz: not an edit dictionary"):
        EditDictionary.load(path)
    with pytest.raises(UserError, match="no such file"):
        EditDictionary.load(tmp_path / "none.npz")


def test_rare_emotions_get_no_boundary_and_mistakes_are_named(dictionary):
    e, names = labelled_embeddings()
    fitted = EditDictionary.fit(np.r_[e, e[:2]], np.r_[names, ["fear", "fear"]])
    assert fitted.labels == LABELS
    with pytest.raises(UserError, match="unknown emotion 'fear'; the known ones are angry, happy, neutral, sad"):
        fitted.direction("fear")
    with pytest.raises(UserError, match="leads nowhere"):
        fitted.direction("sad", "sad")
    with pytest.raises(UserError, match="there are: happy 60"):
        EditDictionary.fit(e[names == "happy"], names[names == "happy"])
    with pytest.raises(UserError, match="do not fit"):
        dictionary.apply(e[:, :4], np.zeros(len(e)), EditSchedule(()))


def test_segment_means():
    e = np.arange(20.0).reshape(10, 2)
    means, labels = segment_embeddings(e, np.arange(10) / 10, [(0.0, 0.3, "sad", 0.5), (0.5, 0.7, "happy"), (5, 6, "sad")])
    np.testing.assert_allclose(means, [[2, 3], [11, 12]])
    assert labels == ["sad", "happy"]


# ---- schedules ----


def test_schedules_from_json(tmp_path):
    path = tmp_path / "edits.json"
    entries = [
        {"emotion": "happy", "alpha": 0.8, "start": 2.0, "end": 4.5},
        {"emotion": "Sadness", "keys": [[0, 0], [1, -0.5]], "interpolation": "smooth", "from": "neutral"},
    ]
    path.write_text(json.dumps({"edits": entries}))
    schedule = EditSchedule.load(path).check(LABELS, 5.0)
    assert schedule.emotions == ("happy", "sad", "neutral")
    np.testing.assert_allclose(schedule.edits[0].alpha_at([1.0, 1.95, 3.0, 4.5, 4.7]), [0, 0.4, 0.8, 0.8, 0])
    np.testing.assert_allclose(schedule.edits[1].alpha_at([0.0, 0.5, 9.0]), [0, -0.25, -0.5])


def test_schedules_by_word():
    words = [("I", 0.0, 0.2), ("am", 0.2, 0.4), ("so", 0.4, 0.7), ("so", 0.8, 1.1)]
    schedule = EditSchedule.from_list([{"emotion": "happy", "alpha": 1, "word": "So", "fade": 0}], words)
    assert [(edit.start, edit.end) for edit in schedule.edits] == [(0.4, 0.7), (0.8, 1.1)]
    by_number = EditSchedule.from_list([{"emotion": "happy", "alpha": 1, "word": 1}], words)
    assert (by_number.edits[0].start, by_number.edits[0].end) == (0.2, 0.4)


@pytest.mark.parametrize(
    "entry, message",
    [
        ({"alpha": 1}, 'an "emotion" by name'),
        ("happy", 'an "emotion" by name'),
        ({"emotion": "happy"}, 'either "alpha" or "keys"'),
        ({"emotion": "happy", "alpha": 1, "keys": [[0, 1]]}, 'either "alpha" or "keys"'),
        ({"emotion": "happy", "alpha": "much"}, "malformed"),
        ({"emotion": "happy", "alpha": 50}, "between -5 and 5"),
        ({"emotion": "happy", "alpha": 10**400}, "malformed"),
        ({"emotion": "happy", "alpha": 1, "strat": 2}, "unknown key strat"),
        ({"emotion": "happy", "alpha": 1, "from": 1}, '"from" is an emotion by name'),
        ({"emotion": "happy", "alpha": 1, "start": 3, "end": 2}, "start < end"),
        ({"emotion": "happy", "keys": [[2, 0], [1, 1]]}, "1 s follows 2 s"),
        ({"emotion": "happy", "keys": [[2]]}, "pairs"),
        ({"emotion": "happy", "keys": []}, "pairs"),
        ({"emotion": "happy", "keys": [[0, 1]], "interpolation": "bouncy"}, "unknown interpolation"),
        ({"emotion": "happy", "alpha": 1, "word": "so"}, "needs an alignment"),
    ],
)
def test_malformed_schedules_get_one_line(tmp_path, entry, message):
    path = tmp_path / "edits.json"
    path.write_text(json.dumps({"edits": [{"emotion": "sad", "alpha": 0.1}, entry]}))
    with pytest.raises(UserError, match=message) as caught:
        EditSchedule.load(path)
    assert "edits.json: edit 2: " in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("content, message", [("{", "not JSON"), ("[]", 'list "edits"'), ('{"edits": []}', "no edits")])
def test_malformed_files_get_one_line(tmp_path, content, message):
    path = tmp_path / "edits.json"
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        EditSchedule.load(path)


def test_names_and_times_are_checked_against_the_recording():
    with pytest.raises(UserError, match="unknown emotion 'surprise'"):
        EditSchedule((Edit("surprise", 1.0),)).check(LABELS, 3.0)
    with pytest.raises(UserError, match="speaks of 4.5 s, but the recording ends at 3.00 s"):
        EditSchedule((Edit("happy", 1.0, start=2.0, end=4.5),)).check(LABELS, 3.0)
    with pytest.raises(UserError, match="speaks of 9 s"):
        EditSchedule((Edit("happy", KeyFrames([0.0, 9.0], [0.0, 1.0])),)).check(LABELS, 3.0)
