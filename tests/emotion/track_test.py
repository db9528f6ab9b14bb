import dataclasses
import json
import math

import numpy as np
import pytest

from sedtalker_jax.emotion import ACTIVE, CANONICAL, PAPER, EmotionTrack, Segment, read_rttm, read_segments, write_segments
from sedtalker_jax.errors import UserError
from sedtalker_jax.evaluation.emotion_metrics import emotion_diarization_error_rate

SEGMENT_FORMATS = [".json", ".csv", ".rttm", ".TextGrid", ".txt"]


def random_track(seed=0, num_frames=120, labels=CANONICAL, duration=True):
    rng = np.random.default_rng(seed)
    logits = np.repeat(rng.normal(0, 3, (num_frames // 20, len(labels))), 20, axis=0)
    p = np.exp(logits + rng.normal(0, 0.3, logits.shape))
    p = (p / p.sum(1, keepdims=True)).astype(np.float32)
    intensity = rng.uniform(0.1, 1.0, len(p)).astype(np.float32)
    return EmotionTrack(labels, p, intensity, 50.0, 0.0125, len(p) / 50 + 0.02 if duration else None)


def test_segments_tile_the_recording_and_follow_the_frames():
    track = random_track()
    segments = track.segments()
    assert segments[0].start == 0.0 and segments[-1].end == pytest.approx(track.duration)
    for before, after in zip(segments, segments[1:], strict=False):
        assert before.end == after.start and before.label != after.label
    path = track.probabilities.argmax(1)
    for frame, time in enumerate(track.times):
        (segment,) = [s for s in segments if s.start <= time < s.end]
        assert segment.label == CANONICAL[path[frame]]
    first = segments[0]
    frames = [t for t, time in enumerate(track.times) if time < first.end]
    assert first.intensity == pytest.approx(track.intensity[frames].mean(), abs=1e-6)


def test_boundaries_lie_half_way_between_frame_centres():
    p = np.eye(8, dtype=np.float32)[[0, 0, 0, 4, 4]]
    track = EmotionTrack(CANONICAL, p, np.full(5, 0.5), 50.0, 0.0125)
    assert track.segments() == [Segment(0.0, 0.0625, "neutral", 0.5), Segment(0.0625, 0.1025, "happy", 0.5)]


def test_activation_is_sharpened_posterior_times_intensity_in_canonical_order():
    p = np.zeros((3, 7), np.float32)
    p[0, PAPER.index("happy")] = 1.0
    p[1, PAPER.index("neutral")] = 1.0
    p[2, PAPER.index("angry")], p[2, PAPER.index("sad")] = 0.6, 0.4
    track = EmotionTrack(PAPER, p, np.array([0.5, 1.0, math.nan]), 50.0, 0.0)
    activation = track.activation(sharpness=2.0)
    assert activation.shape == (3, 7) and activation.dtype == np.float32
    np.testing.assert_allclose(activation[0], 0.5 * np.eye(7)[ACTIVE.index("happy")])
    np.testing.assert_allclose(activation[1], 0.0)
    expected = np.zeros(7)
    expected[ACTIVE.index("angry")], expected[ACTIVE.index("sad")] = 0.36 / 0.52, 0.16 / 0.52
    np.testing.assert_allclose(activation[2], expected, rtol=1e-6)
    np.testing.assert_allclose(track.activation(sharpness=2.0, unknown_intensity=0.0)[2], 0.0)


def test_at_times_interpolates_and_holds_the_ends():
    track = random_track()
    at_frames = track.at_times(track.times)
    np.testing.assert_allclose(at_frames.probabilities, track.probabilities, atol=1e-6)
    np.testing.assert_allclose(at_frames.intensity, track.intensity, atol=1e-6)
    np.testing.assert_allclose(at_frames.activation, track.activation(), atol=1e-6)
    half = track.at_times(track.times[:-1] + 0.01)
    np.testing.assert_allclose(half.probabilities, (track.probabilities[:-1] + track.probabilities[1:]) / 2, atol=1e-5)
    outside = track.at_times(np.array([-5.0, 99.0]))
    np.testing.assert_allclose(outside.activation, track.activation()[[0, -1]], atol=1e-6)


def test_an_unknown_intensity_does_not_spoil_its_neighbour():
    track = EmotionTrack(CANONICAL, np.eye(8)[:2], np.array([0.4, math.nan]), 50.0, 0.0)
    samples = track.at_times(np.array([0.0, 0.01, 0.02]))
    assert samples.intensity[0] == pytest.approx(0.4)
    assert np.isnan(samples.intensity[1:]).all()
    assert np.isfinite(samples.activation).all()


@pytest.mark.parametrize("per_frame", [False, True])
def test_npz_and_full_json_bring_the_same_track_back(tmp_path, per_frame):
    for labels in (CANONICAL, PAPER):
        track = random_track(1, labels=labels)
        track.intensity[3] = math.nan
        path = tmp_path / ("track.json" if per_frame else "track.npz")
        track.save(path, per_frame=per_frame)
        loaded = EmotionTrack.load(path)
        assert loaded.labels == track.labels and loaded.frame_rate == 50.0 and loaded.start == 0.0125
        assert loaded.duration == pytest.approx(track.duration)
        np.testing.assert_allclose(loaded.probabilities, track.probabilities, atol=1e-6)
        np.testing.assert_allclose(loaded.intensity, track.intensity, atol=1e-6)


@pytest.mark.parametrize("suffix", SEGMENT_FORMATS)
def test_segment_files_bring_the_same_segments_back(tmp_path, suffix):
    track = random_track(2)
    path = tmp_path / f"speech one{suffix}"
    track.save(path)
    expected = track.segments()
    read = read_segments(path)
    loaded = EmotionTrack.load(path, duration=track.duration)
    assert loaded.num_frames == track.num_frames
    np.testing.assert_array_equal(loaded.probabilities.argmax(1), track.probabilities.argmax(1))
    assert len(read) == len(expected) > 3
    for a, b in zip(read, expected, strict=True):
        assert (a.start, a.end) == pytest.approx((b.start, b.end), abs=2e-6) and a.label == b.label
        if suffix == ".rttm":
            assert math.isnan(a.intensity)
        else:
            assert a.intensity == pytest.approx(b.intensity, abs=6e-4)


@pytest.mark.parametrize("suffix", SEGMENT_FORMATS)
@pytest.mark.parametrize("rate, start", [(50.0, 0.0125), (30.0, 0.0)])
def test_tracks_of_unknown_duration_keep_their_frames(tmp_path, suffix, rate, start):
    for frames in (40, 101, 260):
        track = dataclasses.replace(random_track(8, 20 * (frames // 20), duration=False), frame_rate=rate, start=start)
        path = tmp_path / f"t{frames}{suffix}"
        track.save(path)
        loaded = EmotionTrack.load(path, frame_rate=rate, start=start)
        assert loaded.num_frames == track.num_frames and loaded.duration is None
        np.testing.assert_array_equal(loaded.path(), track.path())


@pytest.mark.parametrize("suffix", SEGMENT_FORMATS)
def test_unknown_intensity_survives_as_unknown(tmp_path, suffix):
    path = tmp_path / f"t{suffix}"
    write_segments(path, [Segment(0.0, 1.0, "happy"), Segment(1.5, 2.0, "sad", 0.25)], duration=3.0)
    first, second = read_segments(path)
    assert math.isnan(first.intensity) and (first.start, first.end, first.label) == (0.0, 1.0, "happy")
    assert (second.start, second.end, second.label) == (1.5, 2.0, "sad")


def test_rttm_is_what_pyannote_reads(tmp_path):
    load_rttm = pytest.importorskip("pyannote.database.util").load_rttm
    track = random_track(3)
    track.save(tmp_path / "speech.rttm")
    annotation = load_rttm(tmp_path / "speech.rttm")["speech"]
    found = [(s.start, s.end, label) for s, _, label in annotation.itertracks(yield_label=True)]
    expected = [(s.start, s.end, s.label) for s in track.segments()]
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert a[:2] == pytest.approx(b[:2], abs=2e-6) and a[2] == b[2]


def test_rttm_files_may_hold_several_recordings(tmp_path):
    path = tmp_path / "all.rttm"
    lines = ["SPEAKER a 1 1.0 2.0 <NA> <NA> sad <NA> <NA>", "SPEAKER b 1 0 1 <NA> <NA> happy <NA> <NA>", ""]
    path.write_text("\n".join([*lines, "SPEAKER a 1 0.0 1.0 <NA> <NA> happy <NA> <NA>"]))
    recordings = read_rttm(path)
    assert [s[:3] for s in recordings["a"]] == [(0.0, 1.0, "happy"), (1.0, 3.0, "sad")]
    assert [s[:3] for s in recordings["b"]] == [(0.0, 1.0, "happy")]
    # Read as one track they would be mixed up: that is refused.
    with pytest.raises(UserError, match="holds 2 recordings, a, b"):
        EmotionTrack.load(path)


def test_textgrid_is_what_praat_reads(tmp_path):
    parselmouth = pytest.importorskip("parselmouth", reason="praat-parselmouth (Praat itself) is not installed")
    track = random_track(4)
    track.save(tmp_path / "speech.TextGrid")
    grid = parselmouth.read(str(tmp_path / "speech.TextGrid"))
    count = parselmouth.praat.call(grid, "Get number of intervals", 1)
    labels = [parselmouth.praat.call(grid, "Get label of interval", 1, i + 1) for i in range(count)]
    assert labels == [s.label for s in track.segments()]
    # Praat's own file, in its other layouts, comes back too.
    for command in ("Save as text file", "Save as short text file"):
        copy = str(tmp_path / "copy.TextGrid")
        parselmouth.praat.call(grid, command, copy)
        assert [s.label for s in read_segments(copy)] == labels


def test_short_and_utf16_textgrids_and_quotes(tmp_path):
    short = 'File type = "ooTextFile"\nObject class = "TextGrid"\n\n0\n2.5\n<exists>\n2\n'
    short += '"TextTier"\n"marks"\n0\n2.5\n1\n1.2\n"x"\n'
    short += '"IntervalTier"\n"feeling"\n0\n2.5\n3\n0\n1\n"happy"\n1\n2\n""\n2\n2.5\n"a ""quoted"" 7"\n'
    path = tmp_path / "short.TextGrid"
    path.write_text(short, encoding="utf-16")
    assert [s[:3] for s in read_segments(path)] == [(0.0, 1.0, "happy"), (2.0, 2.5, 'a "quoted" 7')]


def test_what_other_tools_write_beside_emotions_is_passed_over(tmp_path):
    rttm, labels = tmp_path / "a.rttm", tmp_path / "a.txt"
    rttm.write_text(
        ";; by hand\nSPKR-INFO a 1 <NA> <NA> <NA> unknown ann <NA> <NA>\nSPEAKER a 1 0.5 1.0 <NA> <NA> happy <NA> <NA>\n"
        "NON-SPEECH a 1 2.0 0.5 <NA> noise <NA> <NA> <NA>\n"
    )
    labels.write_text("0.1\t0.1\thappy\n0.2\t0.4\t \n0.5\t1.5\thappy 0.5\n")
    for path in (rttm, labels):
        (segment,) = read_segments(path)
        assert (segment.start, segment.end, segment.label) == (0.5, 1.5, "happy")


def test_audacity_frequency_lines_are_skipped(tmp_path):
    path = tmp_path / "labels.txt"
    path.write_text("0.0\t1.0\tangry\n\\\t200.0\t3000.0\n1.0\t2.0\thappy 0.5\n")
    assert [s[2] for s in read_segments(path)] == ["angry", "happy"]


def test_gaps_become_neutral_and_synonyms_canonical():
    track = EmotionTrack.from_segments([(0.5, 1.0, "Anger", 0.8)], duration=2.0)
    segments = track.segments()
    assert [s.label for s in segments] == ["neutral", "angry", "neutral"]
    assert segments[0].intensity == 0.0 and segments[1].intensity == pytest.approx(0.8)
    assert segments[-1].end == pytest.approx(2.0)
    assert EmotionTrack.constant("happy", 0.7, 1.0).activation()[:, ACTIVE.index("happy")] == pytest.approx(0.7)


@pytest.mark.parametrize("num_samples", [400, 719, 720, 16_000, 16_399, 123_457])
def test_the_grid_has_the_encoders_number_of_frames(num_samples):
    track = EmotionTrack.constant("sad", 1.0, num_samples / 16_000)
    assert track.num_frames == (num_samples - 400) // 320 + 1


def test_decoded_track_shows_one_emotion_at_a_time():
    p = np.zeros((100, 8), np.float32)
    p[:, 1], p[:, 5] = 0.52, 0.48
    p[::3, 1], p[::3, 5] = 0.48, 0.52
    track = EmotionTrack(CANONICAL, p, np.ones(100))
    assert len(track.segments()) > 20
    decoded = track.decoded("viterbi")
    assert [s.label for s in decoded.segments()] == ["angry"]
    np.testing.assert_allclose(decoded.activation()[:, 0], 1.0)


@pytest.mark.parametrize("duration", [None, 1.0])
def test_a_frame_on_the_very_end_has_the_last_segments_emotion(duration):
    track = EmotionTrack.from_segments([(0.0, 1.0, "happy", 0.5)], frame_rate=25.0, start=0.0, duration=duration)
    assert [segment.label for segment in track.segments()] == ["happy"]
    np.testing.assert_array_equal(track.intensity, np.float32(0.5))
    ends = EmotionTrack.from_segments([(0.0, 0.52, "happy", 0.5)], frame_rate=25.0, start=0.0, duration=1.0)
    assert [ends.labels[index] for index in ends.path()[[12, 13]]] == ["happy", "neutral"], "an end inside is open"


def test_touching_segments_may_overlap_by_the_millisecond_that_rounding_gives(tmp_path):
    # 0.0006 to 1.2345 s and on to 2 s, as pyannote writes them: start and duration with three decimals each.
    rows = ["SPEAKER x 1 0.001 1.234 <NA> <NA> happy <NA> <NA>", "SPEAKER x 1 1.234 0.766 <NA> <NA> sad <NA> <NA>"]
    (tmp_path / "x.rttm").write_text("\n".join(rows))
    track = EmotionTrack.load(tmp_path / "x.rttm", duration=2.0)
    assert [segment.label for segment in track.segments()] == ["happy", "sad"]
    segments = read_segments(tmp_path / "x.rttm")
    error = emotion_diarization_error_rate(segments, segments, 2.0, scored_regions=[(0.001, 2.0)])
    assert error.error_rate <= 1e-3


def test_relabelling_refuses_to_lose_probability():
    track = random_track(5, labels=PAPER)
    wide = track.with_labels(CANONICAL)
    np.testing.assert_allclose(wide.activation(), track.activation(), atol=1e-6)
    np.testing.assert_allclose(wide.with_labels(PAPER).probabilities, track.probabilities)
    with pytest.raises(UserError, match="speaks of .*sad"):
        track.with_labels(("neutral", "happy"))


def test_saving_replaces_whole_files_only(tmp_path, monkeypatch):
    path = tmp_path / "track.npz"
    track = random_track(6)
    track.save(path)
    before = path.read_bytes()

    def fail(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", fail)
    with pytest.raises(UserError, match="track.npz.*No space left"):
        track.save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["track.npz"]


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("missing.json", None, "no such file"),
        ("a.json", "not json", "not a readable .json"),
        ("b.json", "{}", "no 'segments' list"),
        ("c.csv", "from,to\n1,2\n", "header lacks end, label, start"),
        ("d.rttm", "SPKR x\n", "not a SPEAKER line"),
        ("e.TextGrid", "hello", "Praat"),
        ("f.txt", "1 2 happy\n", "not a readable .txt"),
        ("g.csv", "start,end,label,intensity\n2,1,happy,0.5\n", "0 <= start < end"),
        ("h.csv", "start,end,label,intensity\n0,1,happy,1.5\n", "must lie in"),
        ("i.csv", "start,end,label\n0,1,hapy\n", "did you mean 'happy'"),
        ("j.csv", "start,end,label\n0,2,happy\n1,3,sad\n", "overlap at 1 s"),
        ("k.wav", "x", "unknown emotion track format"),
        ("l.npz", "x", "not an emotion track"),
        ("m.csv", "start,end,label\n", "nothing to put on a track"),
        ("n.csv", "start,end,label\n0,1\n", "a line ends before its label"),
        ("o.json", '{"frame_rate": 0, "segments": [{"start": 0, "end": 1, "label": "sad"}]}', "frame rate 0 must lie above 0"),
        ("p.json", '{"frame_rate": 1e12, "segments": [{"start": 0, "end": 1, "label": "sad"}]}', "up to 1000"),
        ("q.json", '{"start": 1e999, "segments": [{"start": 0, "end": 1, "label": "sad"}]}', "start inf be finite"),
        ("r.json", '{"segments": [{"start": 0, "end": 1e300, "label": "sad"}]}', "longer than any recording"),
        ("s.json", '{"segments": [{"start": 0, "end": 1' + "0" * 400 + ', "label": "sad"}]}', "too large"),
    ],
)
def test_bad_files_are_explained_in_one_line(tmp_path, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        EmotionTrack.load(path)
    assert name in str(caught.value) and "\n" not in str(caught.value)


def test_an_empty_file_is_no_neutral_face(tmp_path):
    path = tmp_path / "empty.rttm"
    path.touch()
    with pytest.raises(UserError, match=r"empty.rttm: no segments"):
        EmotionTrack.load(path, duration=2.0)


def test_bytes_that_are_not_text_are_explained(tmp_path):
    path = tmp_path / "audio.csv"
    path.write_bytes(bytes(range(200, 256)) * 4)
    with pytest.raises(UserError, match="not a text file"):
        EmotionTrack.load(path)


def test_names_may_be_as_long_as_the_file_system_has_them(tmp_path):
    path = tmp_path / ("声" * 83 + ".txt")
    write_segments(path, [Segment(0.0, 1.0, "happy")])
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_unwritable_places_and_unknown_suffixes(tmp_path):
    track = random_track(7)
    with pytest.raises(UserError, match="unknown emotion track format"):
        track.save(tmp_path / "track.mp3")
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(UserError, match="is a directory"):
        track.save(tmp_path / "folder.json")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="can't be written"):
        track.save(tmp_path / "file" / "track.json")
    with pytest.raises(UserError, match="only .json and .npz"):
        track.save(tmp_path / "track.csv", per_frame=True)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"labels": CANONICAL[:7]}, "probabilities must be"),
        ({"intensity": np.zeros(3)}, "one value per frame"),
        ({"intensity": np.full(120, 1.2)}, "must lie in"),
        ({"probabilities": np.full((120, 8), 0.5)}, "sum to one"),
        ({"probabilities": np.full((120, 8), np.nan)}, "finite"),
        ({"frame_rate": 0.0}, "frame rate"),
        ({"duration": -1.0}, "duration"),
    ],
)
def test_inconsistent_tracks_are_refused(change, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(random_track(), **change)


def test_json_is_strict(tmp_path):
    track = EmotionTrack(CANONICAL, np.eye(8)[[0]], np.array([math.nan]), 50.0, 0.0)
    track.save(tmp_path / "t.json", per_frame=True)
    text = (tmp_path / "t.json").read_text()
    assert "NaN" not in text and json.loads(text)["intensity"] == [None]


def test_a_trajectory_shows_every_emotion_alone_once_and_moves_smoothly_between():
    names = ("angry", "neutral", "joy", "sad")
    track = EmotionTrack.trajectory(names, 0.8, 8.0)
    samples = track.at_times(np.array([0.0, 1.0, 3.0, 5.0, 7.0, 7.9]))
    shown = [CANONICAL[k] for k in samples.probabilities.argmax(axis=1)]
    assert shown == ["angry", "angry", "neutral", "happy", "sad", "sad"]
    np.testing.assert_allclose(samples.probabilities.max(axis=1), 1.0, atol=1e-3)
    np.testing.assert_allclose(samples.activation[2], 0.0, atol=1e-3)
    np.testing.assert_allclose(track.probabilities.sum(axis=1), 1.0, atol=1e-6)
    steps = np.abs(np.diff(track.probabilities, axis=0)).max()
    assert steps < 1.6 / (2.0 * track.frame_rate)  # of a smooth step over two seconds
    once = EmotionTrack.trajectory(["happy"], 0.5, 1.0)
    np.testing.assert_allclose(once.activation()[:, ACTIVE.index("happy")], 0.5)
    for wrong in ([], ["happy", "bored"]):
        with pytest.raises(UserError):
            EmotionTrack.trajectory(wrong, 1.0, 1.0)


def test_the_spelling_of_a_suffix_changes_nothing(tmp_path):
    track = EmotionTrack.from_segments([(0.0, 1.0, "sad")], duration=1.0)
    track.save(tmp_path / "x.NPZ")
    assert [path.name for path in tmp_path.iterdir()] == ["x.NPZ"]
    np.testing.assert_array_equal(EmotionTrack.load(tmp_path / "x.NPZ").probabilities, track.probabilities)


def test_an_array_under_another_name_is_no_track(tmp_path):
    with (tmp_path / "x.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(UserError, match="not an emotion track"):
        EmotionTrack.load(tmp_path / "x.npz")
