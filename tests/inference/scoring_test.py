"""Scoring on faces that the model does not know: the truth must come from the records' own face space."""

import dataclasses
import types

import numpy as np
import pytest

from sedtalker_jax import axes
from sedtalker_jax.data.face_codec import FaceCodec
from sedtalker_jax.data.faces import captures
from sedtalker_jax.data.faces.motion_code import true_displacements
from sedtalker_jax.data.records import MANIFEST, decode_flac, write_json
from sedtalker_jax.data.world.faces import FaceCast
from sedtalker_jax.data.world.rules import load_rules
from sedtalker_jax.data.world.synthesiser import Phone
from sedtalker_jax.emotion import EmotionTrack
from sedtalker_jax.emotion.labels import ACTIVE, CANONICAL
from sedtalker_jax.errors import UserError
from sedtalker_jax.face.space import FaceSpace
from sedtalker_jax.inference.pipeline import SEDTalker
from sedtalker_jax.inference.scoring import (
    Predictions,
    corpus_prior_tracks,
    emotion_clip,
    fit_temperature,
    group_tables,
    intended_and_perceived,
    perceived_clip,
    score_animation,
)
from tests.data.faces import captures_test, trees

SECONDS = 1.6
SAMPLES = int(SECONDS * axes.SAMPLE_RATE)
FPS = 30.0
FRAMES = axes.num_animation_frames(SAMPLES, FPS)
PHONES = [Phone(symbol, 0.2 + 0.2 * i, 0.4 + 0.2 * i, 0, 0) for i, symbol in enumerate(("m", "A:", "p", "i:", "b", "u:"))]


def cast(path):
    """A world's heads with a face space fitted to some of their motion, and clips of its test head: [F, W] each."""
    rules = load_rules(path)
    faces = FaceCast(dataclasses.replace(rules, table={**rules.table, "face_space": {"rank": 32}}), "tiny")
    activations = [np.outer(np.linspace(0.2, 0.9, FRAMES), np.eye(len(ACTIVE))[k]) for k in range(len(ACTIVE))]
    samples = [(i % 2, faces.articulate("train", i % 2, PHONES, a)[::3]) for i, a in enumerate(activations)]
    faces.space = faces.fit_space(samples)
    return faces, [faces.articulate("test", 0, PHONES, a) for a in activations[:3]]


class Seer:
    """A model of world A that animates perfectly, as far as its face space goes."""

    activations = SEDTalker.activations

    def __init__(self, codec, displacements):
        self.codec, self.fps, self.labels, self.subjects = codec, FPS, CANONICAL, ()
        self._displacements, self._calls = displacements, 0
        self.model = types.SimpleNamespace(config=types.SimpleNamespace(sharpness=1.0))
        self.faces, self.moved_like = [], []

    def template(self, template):
        return template

    def motion(self, waveform, activations, face, subject=None, given_embedding=None):
        self.faces.append(face)
        self.moved_like.append(subject)
        moved = self._displacements[self._calls // 2]  # asked twice per clip: own track, true track
        self._calls += 1
        return self.codec.normalise(self.codec.space.coefficients(moved))


class SeerWithoutDiarizer(Seer):
    """Asked once per clip, always with an emotion that is a number."""

    def motion(self, waveform, activations, face, subject=None, given_embedding=None):
        assert np.isfinite(activations).all()
        self._calls += 1
        return self.codec.normalise(self.codec.space.coefficients(self._displacements[self._calls - 1]))


@pytest.fixture(scope="module")
def worlds():
    return cast("configs/world_rules.toml"), cast("configs/world_b_rules.toml")


def predictions(faces, rigs):
    neutral = np.tile(np.eye(len(CANONICAL), dtype=np.float32)[:1], (axes.num_speech_frames(SAMPLES), 1))
    track = EmotionTrack(CANONICAL, neutral, np.zeros(len(neutral), np.float32), duration=SECONDS)
    records = [
        {
            "id": f"test-{i}", "speaker": f"voice {i}", "template": faces.head_name("test", 0), "fps": FPS,
            "waveform": np.zeros(SAMPLES, np.float32), "activation": np.zeros((FRAMES, len(ACTIVE)), np.float16),
            "motion": faces.coefficients("test", 0, rig).astype(np.float16), "segments": [[0.0, SECONDS, "neutral"]],
            "phonemes": [[p.symbol, p.start_s, p.end_s] for p in PHONES],
        }
        for i, rig in enumerate(rigs)
    ]  # fmt: skip
    return records, [track] * len(records)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_perfect_animator_scores_perfectly_in_a_world_with_other_heads(worlds):
    (own, own_rigs), (other, rigs) = worlds
    motions = [own.coefficients("test", 0, rig) for rig in own_rigs]
    codec = FaceCodec.fit(own.space, motions, [own.head_name("train", i) for i in range(2)], 1)
    model = Seer(codec, [other.displacements("test", 0, rig) for rig in rigs])
    model.subjects = ("someone else", "voice 1")
    scores = score_animation(model, *predictions(other, rigs), other.space)
    # Each clip twice. Whom training saw moves as itself.
    assert model.moved_like == [None, None, "voice 1", "voice 1", None, None]
    np.testing.assert_array_equal(model.faces[0].vertices, other.template("test", 0).vertices)
    lips = scores.table.to_dict()["lip_mean_squared_error_mm2"]["systems"]
    assert lips["model"]["value"] < 0.02 * lips["neutral template"]["value"]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_given_strengths_drive_the_model_and_the_true_ones_its_bound(worlds):
    (own, rigs), _ = worlds
    codec = FaceCodec.fit(own.space, [own.coefficients("test", 0, rigs[0])], [own.head_name("train", 0)], 1)
    records, _ = predictions(own, rigs)
    rng = np.random.default_rng(0)
    for record in records:
        record["activation"] = rng.random((FRAMES, len(ACTIVE))).astype(np.float16)
    given = [rng.random((FRAMES - i, len(ACTIVE))).astype(np.float32) for i in range(len(records))]
    asked = []

    class Listener(Seer):
        def motion(self, waveform, activations, face, subject=None, given_embedding=None):
            asked.append(activations)
            return super().motion(waveform, activations, face, subject)

    model = Listener(codec, [own.displacements("test", 0, rig) for rig in rigs])
    model.labels = ("neutral", "sad", "angry")
    scores = score_animation(model, records, given, own.space)
    assert "model, true track" in scores.table.systems
    columns = [ACTIVE.index("sad"), ACTIVE.index("angry")]
    for i, record in enumerate(records):
        true, driven = asked[2 * i : 2 * i + 2]
        np.testing.assert_array_equal(true, record["activation"].astype(np.float32)[:, columns])
        np.testing.assert_array_equal(driven[: FRAMES - i], given[i][:, columns])
        assert driven.shape == true.shape and not driven[FRAMES - i :].any()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_no_true_track_is_invented_for_faces_that_nobody_labelled(worlds):
    (own, rigs), _ = worlds
    codec = FaceCodec.fit(own.space, [own.coefficients("test", 0, rigs[0])], [own.head_name("train", 0)], 1)
    records, tracks = predictions(own, rigs)
    unknown = np.full((FRAMES, len(ACTIVE)), np.nan, np.float16)
    moved = [own.displacements("test", 0, rig) for rig in rigs]
    for record in records:
        record["activation"] = unknown
    scores = score_animation(SeerWithoutDiarizer(codec, moved), records, tracks, own.space)
    assert "model, true track" not in scores.table.systems
    # Where the others are labelled, the one that is not moves as heard in both systems: it was asked for once.
    records[1]["activation"] = records[2]["activation"] = np.zeros((FRAMES, len(ACTIVE)), np.float16)
    asked = [moved[0], moved[1], moved[1], moved[2], moved[2]]
    scores = score_animation(SeerWithoutDiarizer(codec, asked), records, tracks, own.space)
    lips = scores.table.to_dict()["lip_mean_squared_error_mm2"]["systems"]
    assert lips["model, true track"] == lips["model"] and lips["model"]["value"] < 0.02 * lips["neutral template"]["value"]


def test_motion_at_another_frame_rate_is_refused(worlds):
    (own, own_rigs), _ = worlds
    codec = FaceCodec.fit(own.space, [own.coefficients("test", 0, own_rigs[0])], [own.head_name("train", 0)], 1)
    with pytest.raises(UserError, match="25 fps"):
        score_animation(Seer(codec, []), *predictions(own, own_rigs), dataclasses.replace(own.space, fps=25.0))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_faces_without_labels_or_lip_points_are_scored_by_what_they_have(tmp_path):
    """BIWI's kind: a mesh that only its region lists describe, and no word about what the face feels."""
    root = captures_test.write(tmp_path, ["a_1", "a_2", "a_3"])
    _, made = trees.build(captures.CORPUS, root, tmp_path / "out", capture_fps="24")
    space = FaceSpace.load(tmp_path / "out" / "face_space.npz")
    codec = FaceCodec.fit(space, [record["motion"] for record in made.values()], ["a"], 1)
    records = [{**record, "waveform": decode_flac(record["audio"])} for record in made.values()]
    model = SeerWithoutDiarizer(codec, [true_displacements(record, space) for record in records])
    model.fps = space.fps
    scores = score_animation(model, records, [None] * len(records), space)
    table = scores.table.to_dict()
    assert "emotional_vertex_error_mm2" not in table and "lip_distance_error_mm" not in table and not scores.curves
    lips = table["lip_mean_squared_error_mm2"]["systems"]
    assert lips["model"]["value"] < 0.01 * lips["neutral template"]["value"]


def heard(number, label, *, votes=None, level=None, sex="female", right=True):
    """A recording of one emotion, its listeners' votes, and a track that says `label` (or neutral) throughout."""
    T = axes.num_speech_frames(SAMPLES)
    fields = {} if votes is None else {"perceived": votes}
    fields |= {} if level is None else {"perceived_level": level}
    record = {
        "id": f"clip-{number}", "speaker": f"voice-{number % 3}", "num_samples": SAMPLES, "labels": list(CANONICAL),
        "segments": [[0.0, SECONDS, label]], "emotion": np.r_[[-1], np.full(T - 1, CANONICAL.index(label))].astype(np.int8),
        "intensity": np.full(T, np.nan, np.float16), "corpus": "toy", "sex": sex, **fields,
    }  # fmt: skip
    said = np.tile(np.eye(8, dtype=np.float32)[CANONICAL.index(label) if right else 0], (T, 1))
    return record, EmotionTrack(CANONICAL, said, np.full(T, 0.5, np.float32), duration=SECONDS)


def as_predictions(pairs):
    records, tracks = zip(*pairs, strict=True)
    return Predictions(list(records), [emotion_clip(record, CANONICAL) for record in records], list(tracks))


def test_intended_and_perceived_labels_are_scored_apart_on_the_clips_that_have_both():
    pairs = [heard(i, "sad", votes=["sad"], level=0.4) for i in range(4)]
    pairs += [heard(4 + i, "fear", votes=["sad"]) for i in range(2)]  # the track says what was intended: fear
    pairs += [heard(6, "fear", votes=["fear", "sad"]), heard(7, "fear"), heard(8, "happy", votes=["bored"])]
    table = intended_and_perceived(as_predictions(pairs))
    rows = {row.metric: {name: score.value for name, score in row.values.items()} for row in table.rows}
    assert rows["frame_accuracy"] == pytest.approx({"intended": 1.0, "perceived": 4 / 6})
    assert rows["eder"] == pytest.approx({"intended": 0.0, "perceived": 2 / 6}, abs=0.02)
    assert "6 recordings" in table.note and "66.7%" in table.note
    clip = perceived_clip(pairs[0][0], emotion_clip(pairs[0][0], CANONICAL))
    np.testing.assert_allclose(clip.intensity, 0.4)
    misheard = perceived_clip(pairs[4][0], emotion_clip(pairs[4][0], CANONICAL))
    assert np.isnan(misheard.intensity).all() and misheard.emotion[0] == -1 and misheard.segments[0][2] == "sad"
    assert intended_and_perceived(as_predictions(pairs[6:])) is None


def test_without_labelled_frames_the_temperature_is_one():
    assert fit_temperature(Predictions([], [], [])) == 1.0
    pairs = [heard(i, "sad", right=i % 2 == 0) for i in range(4)]
    labelled = as_predictions(pairs)
    assert fit_temperature(labelled) > 1.5
    unlabelled = [dataclasses.replace(clip, emotion=np.full_like(clip.emotion, -1)) for clip in labelled.clips]
    assert fit_temperature(Predictions(labelled.records, unlabelled, labelled.tracks)) == 1.0


def test_groups_are_scored_apart_where_there_is_more_than_one():
    pairs = [heard(i, "sad", sex=sex, right=sex == "female") for i, sex in enumerate(["female", "male", ""] * 3)]
    tables = group_tables(as_predictions(pairs))
    assert list(tables) == ["by_sex"]
    (accuracy,) = [row for row in tables["by_sex"].rows if row.metric == "frame_accuracy"]
    assert {name: score.value for name, score in accuracy.values.items()} == {"female": 1.0, "male": 0.0, "unknown": 0.0}


def test_shares_of_the_own_corpus_are_a_system_where_there_are_several(tmp_path):
    def directory(name, **frames):
        (tmp_path / name).mkdir()
        write_json(tmp_path / name / MANIFEST, {"corpus": name, "splits": {"train": {"frames": frames}} if frames else {}})
        return str(tmp_path / name)

    calm, sad = directory("calm", neutral=90, happy=10), directory("sad", sad=60, fear=20, bored=20)
    untrained = directory("zed")
    pairs = [heard(i, "happy") for i in range(4)]
    for (record, _), corpus in zip(pairs, ("calm", "sad", "zed", "sad"), strict=True):
        record["corpus"] = corpus
    predictions = as_predictions(pairs)
    tracks = corpus_prior_tracks(predictions, [calm, sad, untrained])
    shares = [{n: float(p) for n, p in zip(t.labels, t.probabilities[-1], strict=True) if p} for t in tracks]
    assert shares[0] == pytest.approx({"neutral": 0.9, "happy": 0.1})
    # The emotion that the model does not know counts nowhere.
    assert shares[1] == shares[3] == pytest.approx({"sad": 0.75, "fear": 0.25})
    assert shares[2] == pytest.approx({"neutral": 90 / 180, "happy": 10 / 180, "sad": 60 / 180, "fear": 20 / 180})
    assert all((t.probabilities == t.probabilities[0]).all() for t in tracks)
    assert corpus_prior_tracks(predictions, [calm, untrained]) is None
    one_corpus = Predictions(predictions.records[1::2], predictions.clips[1::2], predictions.tracks[1::2])
    assert corpus_prior_tracks(one_corpus, [calm, sad]) is None
