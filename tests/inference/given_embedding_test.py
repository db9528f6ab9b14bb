"""A system whose diarizer reads given embeddings, in the user's hands: the vector says the emotion, the sound the words."""

import dataclasses
import functools

import numpy as np
import pytest
import soundfile

from sedtalker_jax.cli import main
from sedtalker_jax.data.given_embeddings import write_given_embeddings
from sedtalker_jax.emotion import Edit, EditDictionary, EditSchedule, EmotionTrack
from sedtalker_jax.errors import UserError
from sedtalker_jax.inference.editing import fit_edit_dictionary
from sedtalker_jax.inference.editing_sheet import edit_sheet
from sedtalker_jax.inference.pipeline import SEDTalker
from sedtalker_jax.inference.style_fit import fit_style
from sedtalker_jax.models.sedtalker import SEDTalkerModel
from tests.inference.talker import NUM_VERTICES, SUBJECTS, WINDOW_S, noise, tiny_codec, tiny_talker
from tests.models.given_embedding_test import SIZE, reading_model
from tests.support import LABELS, random_batch, random_params

CALM, CROSS = np.random.default_rng(3).normal(size=(2, SIZE)).astype(np.float32)


@functools.cache
def reader() -> SEDTalker:
    """The tiny talker, reading; shared by tests, which must not change it."""
    model, batch = reading_model(), random_batch(1)
    batch["speech"]["given_embedding"] = np.zeros((1, SIZE), np.float32)
    meta = {"labels": LABELS, "fps": 30.0, "config": {"pipeline": {"max_seconds": WINDOW_S / 2}}}
    talker = SEDTalker(model, random_params(model, batch, seed=3), tiny_codec(), meta)
    rng = np.random.default_rng(4)
    records = []
    for number in range(5 * len(LABELS)):
        label = LABELS[number % len(LABELS)]
        vector = (rng.normal(size=SIZE) + 3 * np.eye(len(LABELS), SIZE)[number % len(LABELS)]).astype(np.float32)
        records.append({"waveform": noise(0.9), "segments": [[0.0, 0.9, label]], "given_embedding": vector})
    talker.edit_dictionary = fit_edit_dictionary(talker, records)
    return talker


def test_the_whole_recording_has_the_emotion_of_its_vector():
    talker = reader()
    long = noise(2.6)
    assert len(talker.hear(long, given_embedding=CALM)) > 1
    track = talker.diarize(long, given_embedding=CALM)
    assert np.ptp(track.probabilities, axis=0).max() < 1e-6 and np.ptp(track.intensity) < 1e-6
    other = talker.diarize(noise(0.7, seed=5), given_embedding=CALM)
    np.testing.assert_allclose(other.probabilities[0], track.probabilities[0], atol=1e-6)
    assert np.abs(talker.diarize(long, given_embedding=CROSS).probabilities[0] - track.probabilities[0]).max() > 1e-2
    both = talker.hear_many([long, long], given_embeddings=np.stack([CALM, CROSS]))
    np.testing.assert_allclose(talker.combine(both[0]).probabilities, track.probabilities, atol=1e-6)
    assert np.abs(both[1][0].logits - both[0][0].logits).max() > 1e-2


def test_the_face_takes_emotion_and_style_from_it():
    talker, waveform = reader(), noise(0.9)
    heard = talker.animate(waveform, given_embedding=CALM)
    assert heard.vertices.shape == (27, NUM_VERTICES, 3)
    again = talker.animate(waveform, heard.track, given_embedding=CALM)
    np.testing.assert_allclose(again.vertices, heard.vertices, atol=1e-6)
    # The same track and another vector: the style is another one, unless it is left out.
    other = talker.animate(waveform, heard.track, given_embedding=CROSS)
    assert np.abs(other.vertices - heard.vertices).max() > 1e-5
    plain = [talker.animate(waveform, heard.track, use_residual=False, given_embedding=given) for given in (None, CROSS)]
    np.testing.assert_array_equal(plain[0].vertices, plain[1].vertices)


def test_an_edit_moves_it_within_its_span():
    talker, waveform = reader(), noise(0.9)
    edited = talker.edit(waveform, EditSchedule((Edit("happy", 1.0, "sad", 0.0, 0.3),)), given_embedding=CALM)
    assert isinstance(talker.edit_dictionary, EditDictionary) and edited.active.any() and not edited.active.all()
    np.testing.assert_array_equal(edited.track.probabilities[-1], edited.heard.probabilities[-1])
    assert np.abs(edited.track.probabilities[0] - edited.heard.probabilities[0]).max() > 1e-3
    assert np.isfinite(talker.animate_edited(waveform, edited).vertices).all()


def test_without_the_vector_one_line_says_what_to_give():
    talker, waveform = reader(), noise(0.9)
    track = talker.diarize(waveform, given_embedding=CALM)
    asked = [
        lambda: talker.diarize(waveform),
        lambda: talker.animate(waveform),
        lambda: talker.animate(waveform, track),
        lambda: talker.edit(waveform, EditSchedule((Edit("happy", 1.0),))),
        lambda: talker.diarize_many([waveform]),
    ]
    for ask in asked:
        with pytest.raises(UserError, match=rf"an embedding of {SIZE} numbers for each recording: give --embedding"):
            ask()
    with pytest.raises(UserError, match=rf"one vector of {SIZE} numbers, not float32 \({SIZE - 1},\)"):
        talker.diarize(waveform, given_embedding=CALM[1:])
    for ask in (tiny_talker().diarize, tiny_talker().animate):
        with pytest.raises(UserError, match="reads no embedding of a recording; leave out --embedding"):
            ask(waveform, given_embedding=CALM)


def test_a_causal_animator_streams_what_it_animates():
    config = reader().model.config
    backbone = dataclasses.replace(config.animator.backbone, causal=True, window=8)
    model = SEDTalkerModel(dataclasses.replace(config, animator=dataclasses.replace(config.animator, backbone=backbone)))
    talker = SEDTalker(model, reader().params, tiny_codec(), reader().meta)
    waveform = noise(1.2)
    whole = talker.animate(waveform, given_embedding=CALM)
    for track in (None, whole.track):
        pieces = list(talker.animate_stream(waveform, track, given_embedding=CALM))
        np.testing.assert_allclose(np.concatenate([piece.vertices for piece in pieces]), whole.vertices, atol=1e-5)
    other = np.concatenate([piece.vertices for piece in talker.animate_stream(waveform, whole.track, given_embedding=CROSS)])
    assert np.abs(other - whole.vertices).max() > 1e-5
    with pytest.raises(UserError, match="give --embedding"):
        talker.animate_stream(waveform, whole.track)


def test_a_style_is_fitted_under_what_the_vector_says():
    config = reader().model.config
    model = SEDTalkerModel(
        dataclasses.replace(config, animator=dataclasses.replace(config.animator, num_subjects=len(SUBJECTS)))
    )
    batch = random_batch(1)
    batch["speech"]["given_embedding"] = np.zeros((1, SIZE), np.float32)
    meta = {"labels": LABELS, "fps": 30.0, "config": {"pipeline": {"max_seconds": 2.0}}}
    talker = SEDTalker(model, random_params(model, batch, seed=3), dataclasses.replace(tiny_codec(), subjects=SUBJECTS), meta)
    waveform, face = noise(3.1), talker.template(None)
    capture = talker.animate(waveform, subject="bob", given_embedding=CALM).vertices
    track = talker.diarize(waveform, given_embedding=CALM)
    own, other = (fit_style(talker, waveform, capture, face, track, num_steps=1, given_embedding=g) for g in (CALM, CROSS))
    assert own.before != other.before
    with pytest.raises(UserError, match="give --embedding"):
        fit_style(talker, waveform, capture, face, track, num_steps=1)


def test_a_sheet_of_edits_starts_from_it():
    options = dict(alphas=(0.0,), size=40)
    sheets = [edit_sheet(reader(), noise(0.9), given_embedding=given, **options)[0] for given in (CALM, CROSS)]
    assert sheets[0].shape == sheets[1].shape and sheets[0].std() > 0
    with pytest.raises(UserError, match="give --embedding"):
        edit_sheet(reader(), noise(0.9), **options)


def test_the_commands_take_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(SEDTalker, "load", classmethod(lambda cls, directory: reader()))
    speech, vector, wrong = (str(tmp_path / name) for name in ("speech.wav", "vector.npy", "wrong.npy"))
    soundfile.write(speech, noise(0.9), 16_000, subtype="FLOAT")
    np.save(vector, CALM)
    np.save(wrong, CALM[1:])
    commands = {
        "animate": ["--out", str(tmp_path / "face.npz")],
        "diarize": ["--out", str(tmp_path / "track.json")],
        "edit": ["--happy", "0.5", "--out", str(tmp_path / "edited.npz")],
    }
    for command, rest in commands.items():
        line = [command, speech, "--checkpoint", "any", *rest]
        assert main(line) == 2 and "give --embedding FILE.npy" in capsys.readouterr().err
        assert main([*line, "--embedding", wrong]) == 2 and f"{SIZE} numbers" in capsys.readouterr().err
        assert main([*line, "--embedding", str(tmp_path / "absent.npy")]) == 2 and "absent.npy" in capsys.readouterr().err
        assert not (tmp_path / rest[-1]).exists()
        assert main([*line, "--embedding", vector]) == 0 and (tmp_path / rest[-1]).exists()
        capsys.readouterr()


def test_many_recordings_have_a_vector_each(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(SEDTalker, "load", classmethod(lambda cls, directory: reader()))
    recordings = tmp_path / "recordings"
    recordings.mkdir()
    for name in ("calm", "cross", "unknown"):
        soundfile.write(recordings / f"{name}.wav", noise(0.9), 16_000, subtype="FLOAT")
    vectors, out = tmp_path / "vectors.npz", tmp_path / "tracks"
    write_given_embeddings(vectors, {"calm": CALM, "cross": CROSS})
    line = ["diarize", str(recordings), "--checkpoint", "any", "--out-dir", str(out), "--format", "npz"]
    assert main([*line, "--embedding", str(vectors)]) == 2
    message = capsys.readouterr().err
    assert "unknown.wav" in message and "no embedding" in message and "1 of 3 recordings" in message
    for name, vector in (("calm", CALM), ("cross", CROSS)):
        alone = reader().diarize(noise(0.9), given_embedding=vector)
        found = EmotionTrack.load(out / f"{name}.npz")
        np.testing.assert_allclose(found.probabilities, alone.probabilities, atol=1e-6)
    single = tmp_path / "vector.npy"
    np.save(single, CALM)
    assert main([*line, "--overwrite", "--embedding", str(single)]) == 2
    assert "vector.npy" in capsys.readouterr().err
