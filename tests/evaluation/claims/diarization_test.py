"""The diarization arms differ in what they claim to differ in, and their scores are those of the emotion evaluation."""

import dataclasses
import functools
import json

import numpy as np
import pytest

from sedtalker_jax import axes
from sedtalker_jax import evaluation as ev
from sedtalker_jax.data.records import RecordReader
from sedtalker_jax.emotion import EmotionTrack
from sedtalker_jax.emotion.labels import CANONICAL
from sedtalker_jax.evaluation.claims import diarization, diarization_arms, diarization_tables
from sedtalker_jax.evaluation.claims.diarization_arms import TRAINED, Arm, arm_config, oracle_tracks, window_tracks
from sedtalker_jax.evaluation.claims.jobs import in_order
from sedtalker_jax.evaluation.claims.scores import ArmScores
from sedtalker_jax.evaluation.claims.settings import Settings
from sedtalker_jax.inference.scoring import emotion_clip

RATE = axes.SAMPLE_RATE


def record(number, segments, *, voice="ann", strength=0.5):
    """Sound whose amplitude tells the true emotion of every frame: label k is constant at (k + 1) / 10."""
    duration = segments[-1][1]
    n = int(duration * RATE)
    T = axes.num_speech_frames(n)
    times = axes.speech_frame_times(T)
    emotion, waveform = np.full(T, -1, np.int8), np.zeros(n, np.float32)
    for start, end, label in segments:
        emotion[(times >= start) & (times < end)] = CANONICAL.index(label)
        waveform[int(start * RATE) : int(end * RATE)] = (CANONICAL.index(label) + 1) / 10
    return {
        "id": f"clip-{number}", "speaker": voice, "num_samples": n, "waveform": waveform, "labels": list(CANONICAL),
        "segments": segments, "emotion": emotion, "intensity": np.full(T, strength * (1 + number % 3) / 3, np.float16),
        "prosody": {"words": [["a", 0.0, duration]], "joins": [[duration / 3, False]]},
    }  # fmt: skip


def records(count=9):
    rng = np.random.default_rng(1)
    made = []
    for number in range(count):
        names = rng.permutation(CANONICAL)[: 1 + number % 3]
        edges = np.round(np.cumsum([0.0, *rng.uniform(0.8, 2.4, len(names))]), 2)
        segments = [[float(a), float(b), str(name)] for a, b, name in zip(edges, edges[1:], names, strict=False)]
        made.append(record(number, segments, voice=f"voice-{number % 4}"))
    return made


def listen(made, *, doubt=0.3, flicker=0.0, seed=0):
    """A system that reads the amplitude, is as unsure as `doubt`, and takes a share of the frames for another emotion."""
    rng, tracks = np.random.default_rng(seed), []
    for each in made:
        T = axes.num_speech_frames(len(each["waveform"]))
        centres = np.arange(T) * axes.FRAME_HOP + axes.FRAME_WINDOW // 2
        label = np.clip(np.round(10 * np.abs(each["waveform"][centres])).astype(int) - 1, 0, 7)
        label = np.where(rng.random(T) < flicker, rng.integers(0, 8, T), label)
        probabilities = (np.eye(8)[label] * (1 - doubt) + doubt / 8).astype(np.float32)
        duration = len(each["waveform"]) / RATE
        tracks.append(EmotionTrack(CANONICAL, probabilities, np.full(T, 0.4, np.float32), duration=duration))
    return tracks


def fitted(name="ours", **how):
    made = records()
    return Arm.fit(name, functools.partial(listen, **how), made, [emotion_clip(r, CANONICAL) for r in made])


def test_jobs_of_every_seed_train_the_arms_before_they_are_scored(tmp_path):
    order = [job.name for job in in_order(diarization.jobs(Settings(tmp_path, other_data="", seeds=(0, 3))))]
    assert len(order) == 2 * (len(TRAINED) + 1)
    for seed in (0, 3):
        scored = order.index(f"seed{seed}/diarization")
        assert all(order.index(f"seed{seed}/diarizer/{arm}") < scored for arm in TRAINED)


def differing(a, b, path=""):
    """Names of the fields in which two nested dicts differ."""
    names = set()
    for key in a.keys() | b.keys():
        one, other = a.get(key), b.get(key)
        if isinstance(one, dict) and isinstance(other, dict):
            names |= differing(one, other, f"{path}{key}.")
        elif one != other:
            names.add(path + key)
    return names


def test_trained_arms_differ_from_ours_in_nothing_but_their_point(tmp_path):
    settings = Settings(tmp_path, data="records", diarizer_steps=7)
    plain = {arm: arm_config(settings, arm, 3).to_dict() for arm in TRAINED}
    ours = plain["ours"]
    assert (ours["seed"], ours["pipeline"]["seed"], ours["num_steps"], ours["data"]["speech"]) == (3, 3, 7, "records")
    assert differing(ours, plain["utterance-labels"]) == {"pipeline.label_granularity"}
    assert differing(ours, plain["linear"]) == {"model.diarizer.backbone", "model.diarizer.frame_stacking"}
    expected = {"label_granularity", "one_emotion_only", "batch_size", "max_seconds", "bucket_seconds"}
    assert differing(ours, plain["window"]) == {f"pipeline.{name}" for name in expected}
    sizes = [plain[arm]["pipeline"] for arm in ("ours", "window")]
    assert len({size["batch_size"] * size["max_seconds"] for size in sizes}) == 1, "the same seconds of audio in a step"
    with pytest.raises(ValueError, match="unknown arm"):
        arm_config(settings, "prosody-forest", 0)


class Hearer:
    """A model that hears one emotion in each piece: its loudest; and has no idea of time."""

    labels = CANONICAL

    def diarize_many(self, pieces):
        assert all(len(piece) <= diarization_arms.WINDOW_S * RATE for piece in pieces)
        return listen([{"waveform": np.full(len(piece), piece.max(), np.float32)} for piece in pieces])


def test_windows_answer_once_for_their_frames_and_cross_fade_where_they_overlap():
    made = [record(0, [[0.0, 3.0, "angry"], [3.0, 5.5, "surprise"]]), record(1, [[0.0, 1.2, "sad"]])]
    long, short = window_tracks(Hearer(), made)
    assert [t.num_frames for t in (long, short)] == [len(r["emotion"]) for r in made]
    surprise = long.probabilities[:, CANONICAL.index("surprise")]
    # Windows begin every second: those of 2, 3 and 4 s hear surprise, that of 1 s (up to 3 s) does not.
    assert surprise[: 2 * 50 - 2].max() < 0.1 and surprise[3 * 50 + 2 :].min() > 0.7
    assert (np.diff(surprise[2 * 50 : 3 * 50 - 2]) > 0).all(), "cross-faded while both windows hear the frame"
    assert (short.probabilities == short.probabilities[0]).all()


def test_no_constant_answer_is_right_more_often_than_the_oracle_of_the_utterance():
    made = records()
    for each, track in zip(made, oracle_tracks(CANONICAL, made), strict=True):
        said = track.probabilities.argmax(axis=1)
        assert len(set(said)) == 1
        right = (said == each["emotion"]).sum()
        assert right == max((each["emotion"] == k).sum() for k in range(8))


def test_the_validation_split_chooses_patience_for_a_system_that_flickers_and_trust_for_one_that_does_not():
    steady, flickering = fitted(), fitted(flicker=0.3)
    assert steady.transition_cost < flickering.transition_cost
    assert steady.temperature < 0.6, "always right, but says so with little confidence"
    assert flickering.temperature > steady.temperature
    made = records()
    clips = [emotion_clip(r, CANONICAL) for r in made]
    chosen = diarization_tables.ArmResult.of(flickering, made, clips).error_rate()
    hasty = dataclasses.replace(flickering, transition_cost=0.0)
    assert chosen < 0.5 * diarization_tables.ArmResult.of(hasty, made, clips).error_rate()


def test_scores_of_clips_add_up_to_those_of_the_emotion_evaluation():
    made = records()
    clips = [emotion_clip(r, CANONICAL) for r in made]
    arm = dataclasses.replace(fitted(flicker=0.55), transition_cost=2.0)
    result = diarization_tables.ArmResult.of(arm, made, clips)
    scores = diarization.arm_scores(result, seed=2)
    assert (scores.family, scores.arm, scores.seed) == ("diarization", "ours", 2)
    options = {"transition_cost": arm.transition_cost}
    table = ev.evaluate_emotion(clips, {"ours": result.tracks}, decoder_options=options, num_resamples=100).table
    expected = {row.metric: row.values["ours"].value for row in table.rows}
    names = {"emotion_diarization_error_rate": "eder_pooled", "brier": "brier_score"}
    for name, values in scores.measures.items():
        weights = np.asarray(scores.weights[name])
        known = np.isfinite(values) & (weights > 0)
        pooled = (values[known] * weights[known]).sum() / weights[known].sum()
        assert pooled == pytest.approx(expected[names.get(name, name)], abs=1e-6), name
    assert 0.02 < expected["eder_pooled"] < 0.9, "a case in which there is something to add up"


@pytest.mark.parametrize("num_frames", [1, 11, 12, 13, 199, 205])
@pytest.mark.parametrize("context_s", [0.25, 0.5, 1.0, 4.0])
def test_pieces_of_limited_context_answer_for_every_frame_once(num_frames, context_s):
    pieces = diarization_tables.context_pieces(num_frames, context_s)
    assert pieces[0][2] == 0 and pieces[-1][3] == num_frames
    assert all(before[3] == after[2] for before, after in zip(pieces, pieces[1:], strict=False))
    for first, last, start, stop in pieces:
        assert 0 <= first <= start < stop <= last <= num_frames
        assert last - first >= min(12, num_frames)
        assert (last - first) / axes.FRAME_RATE <= context_s + 0.02
        if first > 0 and last < num_frames and stop - start == 12:
            assert (last - first) / axes.FRAME_RATE == pytest.approx(context_s, abs=0.025)


def test_a_scoring_job_leaves_scores_tables_and_figures(tmp_path, tiny_world, monkeypatch):
    hears = {"ours": functools.partial(listen, doubt=0.5), "oracle-utterance": functools.partial(oracle_tracks, CANONICAL)}
    monkeypatch.setattr(diarization, "load_arms", lambda settings, directory, seed: (CANONICAL, hears))
    place = tmp_path / "seed1" / "diarization"
    diarization.score(Settings(tmp_path, str(tiny_world), other_data=str(tiny_world)), 1, place)
    test = RecordReader(tiny_world, "test", decode_audio=False)
    scores = {arm: ArmScores.load(place / "scores" / f"diarization-{arm}.json") for arm in hears}
    for arm, saved in scores.items():
        assert saved.clips == tuple(r["id"] for r in test) and (saved.arm, saved.seed) == (arm, 1)
    saved = {path.stem: json.loads(path.read_text()) for path in (place / "tables").glob("*.json")}
    assert set(saved) == {"diarization", "segment-length", "intensity", "noise", "context", "other-world"}
    for table in saved.values():
        assert all(len(row) == len(table["columns"]) + 1 for row in table["rows"])
    # Two ways to the same number: the clean column's EDER and the whole-clip context are of every third clip of the test split.
    noise, context = saved["noise"], saved["context"]
    assert noise["rows"][0][1] == pytest.approx(context["rows"][0][-1])
    seconds = np.asarray(scores["ours"].weights["emotion_diarization_error_rate"])
    rates = np.asarray(scores["ours"].measures["emotion_diarization_error_rate"])
    assert saved["diarization"]["rows"][0][1] == pytest.approx(np.average(rates, weights=seconds))
    lengths = saved["segment-length"]
    counted = sum(lengths["rows"][0][1:])
    assert counted == sum(len(r["segments"]) for r in test)
    assert saved["other-world"]["rows"][0][5:] == [None] * 3 and saved["other-world"]["rows"][1][5] is not None
    for name in ("confusion", "calibration", "noise", "context"):
        assert (place / "figures" / f"{name}.png").stat().st_size > 1_000
