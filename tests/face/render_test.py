"""Pictures and videos."""

import av
import numpy as np
import pytest

from sedtalker_jax.emotion import EmotionTrack
from sedtalker_jax.errors import UserError
from sedtalker_jax.face.additivity import babble
from sedtalker_jax.face.articulation import articulate
from sedtalker_jax.face.colours import head_colours
from sedtalker_jax.face.head import make_head
from sedtalker_jax.face.render import FaceRenderer, VertexNormals, default_colours, render_frame, render_sheet
from sedtalker_jax.face.rig import pose, with_correctives
from sedtalker_jax.face.sheet import main as sheet_main
from sedtalker_jax.face.video import EmotionStrip, write_video

HEAD = make_head(2)
FACES = HEAD.template.faces
BACK = (10, 200, 30)


def test_a_face_fills_the_picture_and_moves():
    with FaceRenderer(HEAD.template.vertices, FACES, 96, background=BACK) as renderer:
        rest = renderer.render(HEAD.template.vertices)
        opened = renderer.render(HEAD.vertices(with_correctives(pose({"jawOpen": 1.0}))))
        again = renderer.render(HEAD.template.vertices)
    assert rest.shape == (96, 96, 3) and rest.dtype == np.uint8
    covered = (np.abs(rest.astype(int) - BACK).sum(-1) > 60).mean()
    assert 0.2 < covered < 0.95
    np.testing.assert_array_equal(rest, again)
    change = np.abs(opened.astype(int) - rest).sum(-1)
    assert change[60:].sum() > 10 * change[:40].sum() > -1 and change[60:].max() > 60


def test_any_topology_can_be_drawn_and_points_alone_cannot():
    vertices = np.array([[-0.1, -0.1, 0], [0.1, -0.1, 0], [0, 0.1, 0]], np.float32)
    picture = render_frame(vertices, np.array([[0, 1, 2]]), (64, 48), background=BACK)
    assert picture.shape == (48, 64, 3)
    assert (np.abs(picture.astype(int) - BACK).sum(-1) > 60).mean() > 0.1
    with pytest.raises(UserError, match="no triangles"):
        render_frame(vertices, np.zeros((0, 3), int))


def test_normals_match_a_reference():
    v = HEAD.template.vertices
    reference = np.zeros_like(v)
    cross = np.cross(v[FACES[:, 1]] - v[FACES[:, 0]], v[FACES[:, 2]] - v[FACES[:, 0]])
    for k in range(3):
        np.add.at(reference, FACES[:, k], cross)
    reference /= np.maximum(np.linalg.norm(reference, axis=1, keepdims=True), 1e-20)
    np.testing.assert_allclose(VertexNormals(FACES, len(v))(v), reference, atol=1e-3)


def test_colours():
    assert head_colours(1).shape == (HEAD.template.num_vertices, 3)
    lips, cheeks = HEAD.template.regions["lips"], HEAD.template.regions["cheeks"]
    ratio = lambda i: (head_colours()[i, 0] / head_colours()[i, 1].astype(float)).mean()  # noqa: E731
    assert ratio(lips) > 1.15 * ratio(cheeks), "lips are redder than cheeks"
    assert (default_colours(HEAD.template.num_vertices, FACES) == head_colours()).all()
    assert len(np.unique(default_colours(5, np.array([[0, 1, 2]])), axis=0)) == 1


def test_sheet(tmp_path):
    v = HEAD.template.vertices
    sheet = render_sheet([[v, v], [v, v]], FACES, 48, row_labels=["a", "b"], column_labels=["x", "y"])
    assert sheet.shape == (26 + 96, 92 + 96, 3)
    out = tmp_path / "sheet.png"
    assert sheet_main(["--out", str(out), "--heads", "1", "--intensities", "1", "--size", "48"]) == 0
    assert out.stat().st_size > 1000
    assert (
        sheet_main(["--out", str(tmp_path / "sheet.png" / "x.png"), "--heads", "1", "--intensities", "1", "--size", "48"]) == 2
    )


def track(duration):
    return EmotionTrack.from_segments([(0.0, duration / 2, "happy"), (duration / 2, duration, "angry")], duration=duration)


def probe(path):
    with av.open(str(path)) as container:
        video, sound = container.streams.video[0], [s for s in container.streams if s.type == "audio"]
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video)]
        rate = float(video.average_rate)
    samples, sound_rate = 0, 0
    if sound:
        with av.open(str(path)) as container:
            decoded = [frame.to_ndarray() for frame in container.decode(audio=0)]
            samples, sound_rate = sum(d.shape[-1] for d in decoded), container.streams.audio[0].rate
            loud = max(np.abs(d).max() for d in decoded)
        return frames, rate, samples / sound_rate, loud
    return frames, rate, 0.0, 0.0


def test_video_has_pictures_sound_and_the_right_length(tmp_path):
    fps, num_frames = 25.0, 20
    motion = HEAD.vertices(articulate(babble(0, 4), num_frames, fps, np.zeros((num_frames, 7)), HEAD.style))
    waveform = 0.5 * np.sin(2 * np.pi * 440 * np.arange(int(16000 * num_frames / fps)) / 16000)
    path = tmp_path / "talk.mp4"
    write_video(path, motion, FACES, fps, waveform, track(num_frames / fps), title="a title", size=96)
    frames, rate, sound, loud = probe(path)
    assert len(frames) == num_frames and rate == fps
    assert abs(sound - num_frames / fps) < 0.13, "AAC pads by up to two frames of 64 ms"
    assert loud > 0.3
    assert frames[0].shape[1] == 96 and frames[0].shape[0] > 96 + 100
    assert np.abs(frames[5].astype(int) - frames[12]).max() > 40
    assert [p.name for p in tmp_path.iterdir()] == ["talk.mp4"]


def test_video_without_sound_and_with_a_short_or_broken_one(tmp_path):
    motion = np.repeat(HEAD.template.vertices[None], 6, 0)
    write_video(tmp_path / "mute.mp4", motion, FACES, 30.0, size=64)
    assert probe(tmp_path / "mute.mp4")[2] == 0.0
    write_video(tmp_path / "short.mp4", motion, FACES, 30.0, np.array([np.nan, 2.0, -2.0]), size=64)
    assert probe(tmp_path / "short.mp4")[2] > 0.15


def test_a_failed_video_leaves_the_old_one(tmp_path):
    path = tmp_path / "talk.mp4"
    path.write_bytes(b"old")
    motion = np.repeat(HEAD.template.vertices[None], 3, 0)
    with pytest.raises(UserError, match="no triangles"):
        write_video(path, motion, np.zeros((0, 3), int), 30.0, size=64)
    with pytest.raises(UserError, match="labels without a face: bored"):
        bored = EmotionTrack.constant("bored", 1.0, 1.0, ("neutral", "bored"))
        write_video(path, motion, FACES, 30.0, track=bored, size=64)
    assert path.read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1
    with pytest.raises(UserError, match=".mp4"):
        write_video(tmp_path / "talk.gif", motion, FACES, 30.0)
    with pytest.raises(UserError, match="no frames"):
        write_video(path, motion[:0], FACES, 30.0)
    with pytest.raises(UserError, match="can't be written"):
        write_video(path / "talk.mp4", motion, FACES, 30.0)


def test_strip_shows_the_emotion_under_the_playhead():
    strip = EmotionStrip(track(2.0), 2.0, 256)
    early, late = strip.draw(0.4), strip.draw(1.6)
    assert early.shape == (strip.height, 256, 3)
    np.testing.assert_array_equal(early[10, 14], (0xF2, 0xB7, 0x01))
    np.testing.assert_array_equal(late[10, 14], (0xD6, 0x27, 0x28))
    dark = lambda picture: int((picture[strip.top : strip.bottom - 10].sum(-1) < 90).all(0).nonzero()[0].mean())  # noqa: E731
    assert abs(dark(early) - (10 + 0.2 * 236)) < 3 and abs(dark(late) - (10 + 0.8 * 236)) < 3


def test_strip_takes_the_columns_of_labels_in_any_order():
    few = EmotionTrack.from_segments([(0.0, 1.0, "happy")], labels=("neutral", "sad", "angry", "happy"), duration=1.0)
    strip = EmotionStrip(few, 1.0, 256)
    strengths = dict(zip(strip.names, strip.activation.mean(axis=0), strict=True))
    assert strengths == {"sad": 0.0, "angry": 0.0, "happy": pytest.approx(1.0)}
