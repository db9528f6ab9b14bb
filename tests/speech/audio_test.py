"""Sound files of every kind a user may have, good and bad."""

from __future__ import annotations

import struct
import subprocess
import sys

import av
import numpy as np
import pytest
import soundfile

from sedtalker_jax.errors import UserError
from sedtalker_jax.speech.audio import decode_flac, encode_flac, load_audio, normalise, save_audio, store_audio


def tone(rate: int, seconds: float = 0.5, frequency: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * frequency * np.arange(int(rate * seconds)) / rate)).astype(np.float32)


def dominant_frequency(waveform: np.ndarray, rate: int = 16_000) -> float:
    spectrum = np.abs(np.fft.rfft(waveform * np.hanning(len(waveform))))
    return float(np.argmax(spectrum) * rate / len(waveform))


@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 22_050, 44_100, 48_000, 96_000])
@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_any_rate_keeps_duration_pitch_and_level(tmp_path, rate, suffix):
    path = tmp_path / f"tone.{suffix}"
    soundfile.write(path, tone(rate), rate)
    waveform = load_audio(path)
    assert waveform.dtype == np.float32 and waveform.ndim == 1
    assert abs(len(waveform) - 8_000) <= 1
    assert dominant_frequency(waveform) == pytest.approx(440, abs=2.5)
    assert np.abs(waveform[1000:-1000]).max() == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(
    ("suffix", "subtype"), [("mp3", None), ("ogg", "VORBIS"), ("ogg", "OPUS"), ("wav", "FLOAT"), ("wav", "PCM_U8")]
)
def test_compressed_and_odd_encodings(tmp_path, suffix, subtype):
    path = tmp_path / f"tone.{suffix}"
    soundfile.write(path, tone(48_000, 1.0), 48_000, subtype=subtype)
    waveform = load_audio(path)
    assert dominant_frequency(waveform) == pytest.approx(440, abs=2.5)
    assert len(waveform) == pytest.approx(16_000, abs=2_000)


@pytest.mark.parametrize("suffix", ["mp4", "m4a", "mov"])
def test_film_containers_go_through_ffmpeg(tmp_path, suffix):
    path = tmp_path / f"tone.{suffix}"
    with av.open(str(path), "w", format={"m4a": "mp4"}.get(suffix, suffix)) as container:
        stream = container.add_stream("aac", rate=44_100, layout="stereo")
        frame = av.AudioFrame.from_ndarray(np.stack([tone(44_100, 1.0)] * 2), format="fltp", layout="stereo")
        frame.sample_rate = 44_100
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    waveform = load_audio(path)
    assert dominant_frequency(waveform) == pytest.approx(440, abs=2.5)
    assert len(waveform) == pytest.approx(16_000, abs=1_500)


def test_channels_are_averaged(tmp_path):
    left, right = tone(16_000), tone(16_000, frequency=1000.0)
    soundfile.write(tmp_path / "stereo.wav", np.stack([left, right], 1), 16_000, subtype="FLOAT")
    np.testing.assert_allclose(load_audio(tmp_path / "stereo.wav"), (left + right) / 2, atol=1e-6)


def test_resampling_in_blocks_equals_resampling_at_once(tmp_path):
    import soxr

    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 200_000).astype(np.float32)
    soundfile.write(tmp_path / "noise.wav", noise, 44_100, subtype="FLOAT")
    at_once = soxr.resample(noise, 44_100, 16_000)
    in_blocks = load_audio(tmp_path / "noise.wav")
    assert len(in_blocks) == len(at_once)
    np.testing.assert_allclose(in_blocks, at_once, atol=1e-5)


def test_silence_is_valid(tmp_path):
    soundfile.write(tmp_path / "silence.wav", np.zeros(16_000, np.float32), 16_000)
    waveform = load_audio(tmp_path / "silence.wav")
    assert len(waveform) == 16_000 and not waveform.any()
    assert np.isfinite(normalise(waveform)).all()


@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_a_cut_file_gives_what_it_has(tmp_path, suffix):
    path = tmp_path / f"cut.{suffix}"
    noise = np.random.default_rng(1).uniform(-0.5, 0.5, 64_000).astype(np.float32)
    soundfile.write(path, noise, 16_000)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    waveform = load_audio(path)
    assert len(waveform) > 20_000
    np.testing.assert_allclose(waveform[:20_000], noise[:20_000], atol=1e-4)


def encode(path, sound, rate=16_000, codec="aac", title=None):
    """Writes mono sound through FFmpeg."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout="mono")
        if title:
            container.metadata["title"] = title
        frame = av.AudioFrame.from_ndarray(sound[None].astype(np.float32), format="fltp", layout="mono")
        frame.rate = rate
        for packet in (*stream.encode(frame), *stream.encode(None)):
            container.mux(packet)


def test_damage_in_the_middle_is_silence_and_what_follows_keeps_its_time(tmp_path, caplog):
    path = tmp_path / "call.m4a"
    time = np.arange(20 * 16_000) / 16_000
    encode(path, 0.3 * np.sin(2 * np.pi * 220 * time) * (np.sin(2 * np.pi * 0.9 * time) > 0))
    whole = load_audio(path)
    content = bytearray(path.read_bytes())
    start = content.index(b"mdat") + len(content) // 4
    content[start : start + 300] = bytes(np.random.default_rng(0).integers(0, 256, 300, dtype=np.uint8))
    path.write_bytes(content)
    damaged = load_audio(path)
    assert abs(len(damaged) - len(whole)) < 1_024 + 400
    late = slice(12 * 16_000, 19 * 16_000)
    assert np.corrcoef(np.abs(damaged[late]), np.abs(whole[late]))[0, 1] > 0.95
    assert "call.m4a" in caplog.text and "heard as silence" in caplog.text


def test_tags_in_another_encoding_are_no_obstacle(tmp_path):
    path = tmp_path / "song.mka"
    encode(path, tone(32_000), title="Koeln1")
    content = path.read_bytes()
    assert content.count(b"Koeln1") == 1
    path.write_bytes(content.replace(b"Koeln1", b"K\xf6eln1"))
    assert len(load_audio(path)) > 15_000


def bad_files(folder):
    good = folder / "good.wav"
    soundfile.write(good, tone(16_000), 16_000)
    content = bytearray(good.read_bytes())
    (folder / "empty.wav").touch()
    (folder / "folder.wav").mkdir()
    (folder / "text.wav").write_text("this is a letter, not a song\n" * 40)
    (folder / "header.wav").write_bytes(content[:30])
    (folder / "only_header.wav").write_bytes(content[:44])
    no_channels = bytearray(content)
    struct.pack_into("<H", no_channels, 22, 0)
    (folder / "no_channels.wav").write_bytes(no_channels)
    no_rate = bytearray(content)
    struct.pack_into("<I", no_rate, 24, 0)
    (folder / "no_rate.wav").write_bytes(no_rate)
    for name, value in [("nan", np.nan), ("infinity", -np.inf)]:
        samples = tone(16_000)
        samples[100] = value
        soundfile.write(folder / f"{name}.wav", samples, 16_000, subtype="FLOAT")
    soundfile.write(folder / "short.wav", tone(16_000, 0.5)[:399], 16_000)
    (folder / "playlist.wav").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\nhttp://localhost/a.ts\n")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("missing.wav", "no such file"),
        ("folder.wav", "folder"),
        ("empty.wav", "empty"),
        ("text.wav", "not a sound file"),
        ("header.wav", "not a sound file"),
        ("only_header.wav", "at least 0.025 s"),
        ("no_channels.wav", "no_channels.wav"),
        ("no_rate.wav", "no_rate.wav"),
        ("nan.wav", "not finite"),
        ("infinity.wav", "not finite"),
        ("short.wav", "at least 0.025 s"),
        ("playlist.wav", "not a sound file"),
    ],
)
def test_bad_files_are_named_in_one_line(tmp_path, name, words):
    bad_files(tmp_path)
    with pytest.raises(UserError) as caught:
        load_audio(tmp_path / name)
    message = str(caught.value)
    assert words in message and name in message and "\n" not in message


def test_the_shortest_waveform_is_one_frame(tmp_path):
    from sedtalker_jax.axes import num_speech_frames

    soundfile.write(tmp_path / "frame.wav", tone(16_000)[:400], 16_000)
    assert num_speech_frames(len(load_audio(tmp_path / "frame.wav"))) == 1


def test_flac_bytes_round_trip():
    waveform = np.random.default_rng(2).uniform(-1.2, 1.2, 5_000).astype(np.float32)
    decoded = decode_flac(encode_flac(waveform))
    assert decoded.dtype == np.float32
    np.testing.assert_allclose(decoded, np.clip(waveform, -1, 1), atol=2**-15)


def test_save_audio_round_trip_and_refusal(tmp_path):
    save_audio(tmp_path / "a.flac", tone(16_000))
    np.testing.assert_allclose(load_audio(tmp_path / "a.flac"), tone(16_000), atol=2**-15)
    with pytest.raises(UserError, match="cannot write sound"):
        save_audio(tmp_path / "a.docx", tone(16_000))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.flac"]


def test_normalise_agrees_with_the_feature_extractor():
    from transformers import Wav2Vec2FeatureExtractor

    waveform = (0.1 + 0.3 * np.random.default_rng(3).standard_normal(10_000)).astype(np.float32)
    expected = Wav2Vec2FeatureExtractor(do_normalize=True)(waveform, sampling_rate=16_000, return_tensors="np").input_values[0]
    np.testing.assert_allclose(normalise(waveform), expected, atol=2e-6)


def test_load_audio_starts_no_jax():
    code = "import sys; from sedtalker_jax.speech import load_audio; assert 'jax' not in sys.modules, 'jax was imported'"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("suffix", ["wav", "mp3"])
def test_a_stored_waveform_is_the_loaded_one(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, (90_000, 2)), 44_100)
    # The end of a cut file is decoded by FFmpeg, after libsndfile has begun.
    path.write_bytes(path.read_bytes()[:-1_001])
    loaded = load_audio(path)
    with store_audio(path) as stored:
        assert len(stored) == len(loaded)
        np.testing.assert_array_equal(stored[:], loaded)
        for piece in (slice(5, 700), slice(-100, None), slice(400, 10**9), slice(9, 3)):
            np.testing.assert_array_equal(stored[piece], loaded[piece])
        with pytest.raises(ValueError, match="steps of 2"):
            stored[::2]


def test_storing_refuses_what_loading_refuses(tmp_path):
    (tmp_path / "text.wav").write_text("no sound")
    with pytest.raises(UserError, match=r"text\.wav: not a sound file"):
        store_audio(tmp_path / "text.wav")
    soundfile.write(tmp_path / "short.wav", np.zeros(100), 16_000)
    with pytest.raises(UserError, match=r"short\.wav: holds 0\.0063 s"):
        store_audio(tmp_path / "short.wav")
