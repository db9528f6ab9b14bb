"""Joined utterances: exact labels, no tell-tale splices, one gain per speaker, and nothing but the seed decides."""

import dataclasses

import numpy as np
import pytest

from sedtalker_jax import axes
from sedtalker_jax.data.joins import JoinConfig, JoinSampler, Piece, Plan, cell_shares, join_sound, overlap_add, speaker_gains
from sedtalker_jax.emotion.labels import CANONICAL, LEVEL_SCALES, PAPER
from sedtalker_jax.errors import UserError
from tests.data.toy_records import RATE, ToyReader, clip, toy_records

PLAIN = JoinConfig(augment=None)


def sampler_of(made, config=PLAIN, labels=CANONICAL, seed=0):
    return JoinSampler(ToyReader(made).index(), labels, config, seed)


def example_of(sampler, made, epoch, index):
    plan = sampler.plan(epoch, index)
    return plan, sampler.example(plan, [made[piece.row] for piece in plan.pieces], epoch, index)


def test_an_example_is_a_function_of_seed_epoch_and_index():
    made = toy_records()
    config = JoinConfig()
    one, other, third = (sampler_of(made, config, seed=seed) for seed in (3, 3, 4))
    places = [(epoch, index) for epoch in (0, 5) for index in range(len(one))]
    for epoch, index in places[::-1]:
        other.plan(epoch, index)  # what was asked for before changes nothing
    plans = [one.plan(*place) for place in places]
    assert plans == [other.plan(*place) for place in places]
    assert plans != [third.plan(*place) for place in places]
    assert len(set(plans)) > 0.9 * len(plans)
    for epoch, index in places[:20]:
        (_, a), (_, b) = example_of(one, made, epoch, index), example_of(other, made, epoch, index)
        np.testing.assert_array_equal(a["waveform"], b["waveform"])


@pytest.mark.parametrize("speed", [1.0, 0.9, 1.1])
def test_every_frame_has_the_label_of_the_clip_that_sounds_there(speed):
    made = toy_records()
    config = dataclasses.replace(PLAIN, pause_probability=0.0)
    sampler = sampler_of(made, config)
    seen = set()
    for index in range(len(sampler)):
        plan = dataclasses.replace(sampler.plan(0, index), speed=speed)
        record = sampler.example(plan, [made[piece.row] for piece in plan.pieces], 0, index)
        waveform, T = record["waveform"], axes.num_speech_frames(len(record["waveform"]))
        assert len(waveform) == plan.num_samples(sampler.crossfade)
        assert len(record["emotion"]) == len(record["intensity"]) == T
        centres = (320 * np.arange(T) + 200).astype(int)
        number = waveform[centres] * 1000 - 1
        steady = np.abs(waveform[np.minimum(centres + 80, len(waveform) - 1)] - waveform[centres - 80]) < 1e-6
        assert steady.mean() > 0.6
        for t in np.flatnonzero(steady & (np.abs(number - np.rint(number)) < 1e-2)):
            row = int(np.rint(number[t]))
            if row in [piece.row for piece in plan.pieces]:
                assert CANONICAL[record["emotion"][t]] == made[row]["label"], (index, t)
                seen.add(row)
        assert record["segments"][0][0] == 0.0
        assert record["segments"][-1][1] == pytest.approx(len(waveform) / RATE, abs=1e-3)
        for (_, end, _), (start, _, _) in zip(record["segments"], record["segments"][1:], strict=False):
            assert end == start
    assert len(seen) == len(made)


def test_segments_and_frames_agree_at_every_boundary():
    made = toy_records()
    sampler = sampler_of(made)
    for index in range(len(sampler)):
        _, record = example_of(sampler, made, 2, index)
        times = axes.speech_frame_times(len(record["emotion"]))
        for start, end, label in record["segments"]:
            inside = record["emotion"][(times >= start) & (times < end)]
            assert set(inside.tolist()) <= {CANONICAL.index(label), -1}


def kinds_of_joins(sampler, made, epochs):
    """For every join: (label before, label after, pause in samples)."""
    for epoch in range(epochs):
        for index in range(len(sampler)):
            plan = sampler.plan(epoch, index)
            labels = [made[piece.row]["label"] for piece in plan.pieces]
            yield from zip(labels, labels[1:], plan.pauses, strict=False)


def test_splices_and_pauses_do_not_give_a_change_away():
    made = toy_records(labels=("neutral", "angry", "sad", "happy"))
    sampler = sampler_of(made)
    joins = list(kinds_of_joins(sampler, made, 100))
    changed = np.array([before != after for before, after, _ in joins])
    paused = np.array([pause > 0 for _, _, pause in joins])
    length = np.array([pause for _, _, pause in joins])
    n = len(joins)
    assert n > 4000
    assert abs(changed.mean() - 0.5) < 4 * 0.5 / np.sqrt(n)
    for kind in (changed, ~changed):
        assert abs(paused[kind].mean() - 0.5) < 4 * 0.5 / np.sqrt(kind.sum())
    longer, shorter = length[changed & paused], length[~changed & paused]
    assert abs(longer.mean() - shorter.mean()) < 4 * np.sqrt(longer.var() / len(longer) + shorter.var() / len(shorter))


def test_all_patterns_arise():
    made = toy_records(labels=("neutral", "angry", "sad"))
    sampler = sampler_of(made)
    patterns = set()
    for index in range(40 * len(sampler)):
        plan = sampler.plan(*divmod(index, len(sampler)))
        labels = [made[piece.row]["label"] for piece in plan.pieces]
        patterns.add(tuple("n" if label == "neutral" else label[0] for label in labels))
    for pattern in ("na", "an", "nan", "as", "a", "n", "aa", "nn"):
        assert tuple(pattern) in patterns, pattern
    assert max(map(len, patterns)) == 3


def test_one_event_joins_hold_exactly_one_emotion_in_four_orders():
    made = toy_records(labels=("neutral", "angry", "sad"))
    made += [clip(95, "guest", "angry", 1.0)]
    config = dataclasses.replace(PLAIN, one_event=True, corpus_temperature=1.0, emotion_temperature=1.0)
    sampler = sampler_of(made, config)
    emotional = [row for row, record in enumerate(made) if record["label"] != "neutral"]
    assert sampler.usable.tolist() == emotional
    counts = {}
    for epoch in range(60):
        anchors = []
        for index in range(len(sampler)):
            plan = sampler.plan(epoch, index)
            rows = [piece.row for piece in plan.pieces]
            assert len({made[row]["speaker"] for row in rows}) == 1 and len(set(rows)) == len(rows)
            (anchor,) = [row for row in rows if made[row]["label"] != "neutral"]
            anchors.append(anchor)
            if made[anchor]["speaker"] == "guest":
                assert len(rows) == 1, "a speaker without neutral speech"
            else:
                order = "".join("e" if row == anchor else "n" for row in rows)
                counts[order] = counts.get(order, 0) + 1
        assert sorted(anchors) == emotional, "each once an epoch"
    n = sum(counts.values())
    assert set(counts) == {"e", "ne", "en", "nen"}
    for count in counts.values():
        assert abs(count / n - 0.25) < 4 * np.sqrt(0.25 * 0.75 / n)
    for index in range(len(sampler)):
        _, record = example_of(sampler, made, 0, index)
        emotion = record["emotion"][record["emotion"] >= 0] > 0
        assert emotion.any() and np.count_nonzero(np.diff(np.r_[False, emotion].astype(int)) > 0) == 1
    with pytest.raises(UserError, match="no record has one of the emotions"):
        sampler_of([clip(0, "ann", "neutral", 1.0)], config)


def test_only_one_speaker_and_session_are_joined():
    made = toy_records(speakers=("ann", "bob"))
    made += [clip(90 + i, "guest", label, 1.0, session=session) for i, (label, session) in enumerate(
        [("neutral", "e1"), ("neutral", "e1"), ("angry", "e1"), ("angry", "e1"), ("neutral", "e2"), ("neutral", "e2")]
    )]  # fmt: skip
    made += [clip(100 + i, "ann", label, 1.0, corpus="other") for i, label in enumerate(["neutral", "angry"] * 2)]
    sampler = sampler_of(made)
    joined = set()
    for index in range(20 * len(sampler)):
        plan = sampler.plan(*divmod(index, len(sampler)))
        voices = {tuple(made[piece.row][key] for key in ("corpus", "speaker", "session")) for piece in plan.pieces}
        assert len(voices) == 1
        if len(plan.pieces) > 1:
            joined |= voices
    assert ("toy", "guest", "e1") in joined and ("other", "ann", "") in joined
    assert ("toy", "guest", "e2") not in joined, "a speaker with one emotion can give no change, so no join either"


def test_a_speaker_has_one_gain_from_neutral_clips():
    made = [
        clip(0, "ann", "neutral", 1.0, loudness_db=-30.0),
        clip(1, "ann", "neutral", 1.0, loudness_db=-32.0),
        clip(2, "ann", "angry", 1.0, loudness_db=-10.0),
        clip(3, "bob", "neutral", 1.0, loudness_db=-22.0),
        clip(4, "cat", "angry", 1.0, loudness_db=-3.0),
        clip(5, "dan", "angry", 1.0, loudness_db=-3.0, corpus="other"),
        clip(6, "eve", "neutral", 1.0, loudness_db=-80.0, corpus="third"),
    ]
    gains = speaker_gains(ToyReader(made).index(), -26.0)
    assert gains.tolist() == [5.0, 5.0, 5.0, -4.0, 0.5, 0.0, 20.0]
    sampler = sampler_of(made)
    for index in range(50):
        plan = sampler.plan(*divmod(index, len(sampler)))
        assert all(piece.gain_db == gains[piece.row] for piece in plan.pieces)
    waveform, _ = join_sound(
        Plan((Piece(0, 0, 16_000, 5.0), Piece(2, 0, 16_000, 5.0)), (0,), 1.0),
        [made[0]["waveform"], made[2]["waveform"]],
        0,
        np.random.default_rng(0),
    )
    assert waveform[20_000] / waveform[100] == pytest.approx(3.0), "the clips' own proportion stays"


def test_crossfades_keep_the_power_of_noise_and_have_no_clicks():
    rng = np.random.default_rng(0)
    seams = []
    for _ in range(400):
        a, b = rng.normal(size=(2, 1000)).astype(np.float32)
        joined = overlap_add([a, b], 240)
        assert len(joined) == 1760
        np.testing.assert_array_equal(joined[:760], a[:760])
        np.testing.assert_array_equal(joined[1000:], b[240:])
        seams.append(joined[760:1000])
    power = np.mean(np.square(seams), axis=0)
    assert power.mean() == pytest.approx(1.0, abs=0.03) and power.min() > 0.7
    steady = overlap_add([np.zeros(1000, np.float32), np.ones(1000, np.float32)], 240)
    assert np.abs(np.diff(steady)).max() < 0.01
    np.testing.assert_array_equal(overlap_add([np.ones(5), np.zeros(5)], 0), [1] * 5 + [0] * 5)


@pytest.mark.parametrize(("pause_s", "labelled"), [(0.4, True), (0.7, False)])
def test_a_short_pause_inherits_and_a_long_one_has_no_label(pause_s, labelled):
    made = [clip(0, "ann", "neutral", 1.0), clip(1, "ann", "angry", 1.0)]
    sampler = sampler_of(made)
    pause = int(pause_s * RATE)
    plan = Plan((Piece(0, 0, RATE, 0.0), Piece(1, 0, RATE, 0.0)), (pause,), 1.0)
    record = sampler.example(plan, made, 0, 0)
    assert len(record["waveform"]) == 2 * RATE + pause - 2 * sampler.crossfade
    times = axes.speech_frame_times(len(record["emotion"]))
    middle = 1.0 + pause_s / 2 - sampler.crossfade / RATE
    assert record["segments"][0][1] == pytest.approx(middle, abs=1e-4)
    inside = (times > 1.0) & (times < 1.0 + pause_s - 2 * sampler.crossfade / RATE)
    expected = np.where(times < middle, 0, 1) if labelled else np.where(inside, -1, np.where(times < middle, 0, 1))
    np.testing.assert_array_equal(record["emotion"], expected)


def test_a_pause_is_filled_with_the_clips_own_floor():
    quiet = [clip(i, "ann", label, 2.0) for i, label in enumerate(("neutral", "angry"))]
    for record, level in zip(quiet, (0.001, 0.004), strict=True):
        record["waveform"] = np.random.default_rng(0).normal(0, level, 2 * RATE).astype(np.float32)
        record["waveform"][8000:24000] *= 100
    plan = Plan((Piece(0, 0, 2 * RATE, 0.0), Piece(1, 0, 2 * RATE, 0.0)), (8000,), 1.0)
    waveform, spans = join_sound(plan, [record["waveform"] for record in quiet], 240, np.random.default_rng(1))
    pause = waveform[spans[0][1] : spans[1][0]]
    assert 0.0008 < pause[:1000].std() < 0.0016 and 0.0028 < pause[-1000:].std() < 0.0046


def test_silence_inside_a_clip_stays_unlabelled_and_only_the_spoken_span_is_joined():
    record = clip(0, "ann", "angry", 2.0, speech_span=[0.5, 1.8])
    record["emotion"][40:70] = -1
    sampler = sampler_of([record])
    plan, joined = example_of(sampler, [record], 0, 0)
    assert (plan.pieces[0].start, plan.pieces[0].stop) == (8_000, 28_800)
    np.testing.assert_array_equal(joined["emotion"], record["emotion"][25 : 25 + len(joined["emotion"])])


def test_records_with_several_emotions_are_used_alone_and_keep_their_labels():
    made = toy_records(each=4)
    world = clip(50, "ann", "neutral", 3.0, speech_span=[0.0, 3.0])
    world["segments"] = [[0.0, 1.0, "neutral"], [1.0, 3.0, "angry"]]
    world["emotion"] = np.where(axes.speech_frame_times(len(world["emotion"])) < 1.0, 0, 1).astype(np.int8)
    world["intensity"] = np.linspace(0, 1, len(world["emotion"])).astype(np.float16)
    made.append(world)
    sampler = sampler_of(made, dataclasses.replace(PLAIN, longest_piece_s=2.0))
    found = 0
    for index in range(4 * len(sampler)):
        plan, record = example_of(sampler, made, *divmod(index, len(sampler)))
        rows = [piece.row for piece in plan.pieces]
        if len(made) - 1 in rows:
            found += 1
            assert rows == [len(made) - 1]
            at = plan.pieces[0].start / RATE + axes.speech_frame_times(len(record["emotion"]))
            assert np.mean(record["emotion"] == (at >= 1.0)) > 0.99, "to half a frame, where the cut is off the grid"
            assert np.isfinite(record["intensity"]).all()
            assert [segment[2] for segment in record["segments"]][-1] == "angry"
    assert found


def test_levels_go_with_their_piece_and_scale():
    strong = clip(0, "ann", "angry", 1.0, level=1, level_scale="ravdess")
    plain = clip(1, "ann", "neutral", 1.0)
    sampler = sampler_of([strong, plain])
    plan = Plan((Piece(1, 0, RATE, 0.0), Piece(0, 0, RATE, 0.0)), (0,), 1.0)
    record = sampler.example(plan, [plain, strong], 0, 0)
    np.testing.assert_array_equal(record["level"], np.where(record["emotion"] == 1, 1, -1))
    scale = list(LEVEL_SCALES).index("ravdess")
    np.testing.assert_array_equal(record["level_scale"], np.where(record["emotion"] == 1, scale, -1))


def test_temperature_balances_corpora_and_emotions():
    cells = {("a", "angry"): range(10), ("a", "neutral"): range(90), ("b", "neutral"): range(300)}
    np.testing.assert_allclose(cell_shares(cells, 1.0, 1.0), [10 / 400, 90 / 400, 300 / 400])
    np.testing.assert_allclose(cell_shares(cells, 1e9, 1e9), [0.25, 0.25, 0.5], atol=1e-6)
    np.testing.assert_allclose(cell_shares(cells, 2.0, 1.0)[2], np.sqrt(300) / (np.sqrt(300) + 10))


def test_an_epoch_goes_through_a_cell_before_a_clip_comes_again():
    made = [clip(i, "ann", "neutral", 1.0) for i in range(9)] + [clip(9, "ann", "angry", 1.0)]
    config = dataclasses.replace(PLAIN, emotion_temperature=1e9, join_shares=(1.0,))
    sampler = sampler_of(made, config)
    for epoch in range(3):
        rows = [sampler.plan(epoch, index).pieces[0].row for index in range(len(sampler))]
        assert rows.count(9) == 5 and len(set(rows) - {9}) == 5
    orders = {tuple(sampler.plan(epoch, index).pieces[0].row for index in range(10)) for epoch in range(4)}
    assert len(orders) == 4


def test_labels_that_the_model_lacks_are_not_used():
    made = toy_records(labels=("neutral", "surprise", "angry"))
    sampler = sampler_of(made, labels=PAPER)
    for index in range(3 * len(sampler)):
        plan, record = example_of(sampler, made, *divmod(index, len(sampler)))
        labels = [made[piece.row]["label"] for piece in plan.pieces]
        assert "surprise" not in labels
        assert record["labels"] == list(PAPER)
        assert {PAPER[k] for k in record["emotion"] if k >= 0} == set(labels)
    with pytest.raises(UserError, match="no record has one of the labels"):
        sampler_of([clip(0, "ann", "surprise", 1.0)], labels=PAPER)


def test_configs_are_checked():
    assert JoinConfig(join_shares=[0.5, 0.5], augment={"room_probability": 0.0}).augment.room_probability == 0.0
    with pytest.raises(ValueError, match="add up to 1"):
        JoinConfig(join_shares=(0.5, 0.4))
    with pytest.raises(ValueError, match="twice crossfade"):
        JoinConfig(pause_s=(0.01, 0.5))
    with pytest.raises(ValueError, match="no probability"):
        JoinConfig(augment={"room_probability": 1.5})
