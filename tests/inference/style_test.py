"""Styles: fitted to a capture they move as it does, and they belong to one model."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
import soundfile

from sedtalker_jax.cli import main
from sedtalker_jax.emotion import EmotionTrack
from sedtalker_jax.errors import UserError
from sedtalker_jax.face.blendshape_basis import BlendshapeBasis
from sedtalker_jax.face.live_link import write_live_link
from sedtalker_jax.inference.pipeline import SEDTalker
from sedtalker_jax.inference.style import Style, style_digest
from sedtalker_jax.inference.style_fit import fit_head, fit_style
from sedtalker_jax.outputs import write_animation
from tests.inference.talker import noise, subject_talker, tiny_talker
from tests.support import RANK

SECONDS = 4.0


@pytest.fixture(scope="module")
def capture():
    """Voice, face at rest and motion of somebody whose style is none of the model's own but lies among them."""
    talker, waveform = subject_talker(), noise(SECONDS)
    table = np.asarray(talker.params["animator"]["subject"]["embedding"])
    somebody = {**talker.params, "animator": {**talker.params["animator"], "subject": {"embedding": jnp.asarray(table)}}}
    somebody["animator"]["subject"]["embedding"] = jnp.asarray(table).at[1].set(0.3 * table[1] - 0.5 * table[2] + table[3])
    face = talker.template("head-1")
    owner = SEDTalker(talker.model, somebody, talker.codec, talker.meta)
    track = talker.diarize(waveform)
    return waveform, owner.animate(waveform, track, template=face, subject="ann").vertices, face, track


def written(face, path) -> str:
    """An .obj file of a face."""
    rows = [f"v {x} {y} {z}" for x, y, z in face.vertices] + [f"f {a + 1} {b + 1} {c + 1}" for a, b, c in face.faces]
    path.write_text("\n".join(rows) + "\n")
    return str(path)


def nobodys_style(model: str) -> Style:
    return Style(np.zeros((16, RANK), np.float32), np.zeros(RANK, np.float32), None, model)


def test_an_animator_that_knows_no_subjects_takes_on_a_last_layer(tmp_path):
    talker, waveform, rng = tiny_talker(), noise(6.0), np.random.default_rng(2)
    kernel, bias = (np.asarray(talker.params["animator"]["head"][name]) for name in ("kernel", "bias"))
    changes = (0.3 * kernel.std() * rng.normal(size=x.shape).astype(np.float32) for x in (kernel, bias))
    somebody = talker.with_style(Style(*changes, None, style_digest(talker.params)))
    track, face = talker.diarize(waveform), talker.template("head-1")
    fit = fit_style(talker, waveform, somebody.animate(waveform, track, template=face).vertices, face, track, quiet=True)
    assert fit.style.vector is None and fit.after < 0.1 * fit.before
    fit.style.save(tmp_path / "style.npz")
    styled = talker.with_style(Style.load(tmp_path / "style.npz"))
    other = noise(1.5, seed=9)
    heard = talker.diarize(other)
    true, fitted, plain = (x.animate(other, heard, template="head-2").vertices for x in (somebody, styled, talker))
    assert np.abs(fitted - true).mean() < 0.3 * np.abs(plain - true).mean()
    np.testing.assert_array_equal(styled.diarize(other).probabilities, heard.probabilities)
    with pytest.raises(UserError, match="another checkpoint"):
        styled.with_style(fit.style)


def test_a_last_layer_stays_where_a_change_only_fits_what_it_was_fitted_to():
    rng = np.random.default_rng(0)
    features, noisy = rng.normal(size=(90, 80)), rng.normal(size=(90, 3))

    def judged(missing):
        return float(np.square(missing[60:]).mean())

    kernel, bias, after = fit_head(features, noisy, 60, judged)
    assert after <= judged(noisy) and (after == judged(noisy)) == (not kernel.any())
    silent = np.where(np.arange(80) < 3, 0.0, features)
    weights = rng.normal(size=(80, 3))
    kernel, bias, after = fit_head(silent, silent @ weights + 2.0, 60, judged)
    assert not kernel[:3].any() and after < 0.5 * judged(silent @ weights + 2.0)


def test_a_fitted_style_moves_as_the_capture_does(capture, tmp_path):
    talker, (waveform, vertices, face, track) = subject_talker(), capture
    fit = fit_style(talker, waveform, vertices, face, track)
    # On frames that were not fitted.
    assert fit.after < 0.05 * fit.before
    fit.style.save(tmp_path / "style.npz")
    stored = Style.load(tmp_path / "style.npz")
    for name in ("kernel", "bias", "vector"):
        np.testing.assert_array_equal(getattr(stored, name), getattr(fit.style, name))
    other = noise(1.5, seed=9)
    heard = talker.diarize(other)
    table = np.asarray(talker.params["animator"]["subject"]["embedding"])
    same = np.zeros_like(stored.kernel), np.zeros_like(stored.bias)
    wanted = Style(*same, 0.3 * table[1] - 0.5 * table[2] + table[3], stored.model)
    true, styled, plain = (
        system.animate(other, heard, template=face).vertices
        for system in (talker.with_style(wanted), talker.with_style(stored), talker)
    )
    assert np.abs(styled - true).mean() < 0.3 * np.abs(plain - true).mean()


def test_a_capture_of_another_rate_gives_the_same_style(capture, tmp_path, monkeypatch, capsys):
    talker, (waveform, vertices, face, track) = subject_talker(), capture
    monkeypatch.setattr(SEDTalker, "load", lambda directory: talker)
    voice, mesh = str(tmp_path / "a.wav"), written(face, tmp_path / "a.obj")
    soundfile.write(voice, waveform, 16_000, subtype="FLOAT")
    animation = talker.animate(waveform, track, template=face)
    # Twice the rate: the same frames with one on the straight line between each two of them, the last one held.
    between = np.append(0.5 * (vertices[:-1] + vertices[1:]), vertices[-1:], axis=0)
    twice = np.stack([vertices, between], axis=1).reshape(-1, *vertices.shape[1:])
    np.save(tmp_path / "own.npy", vertices)
    np.save(tmp_path / "twice.npy", twice)
    # As animate writes it: the file knows its rate.
    write_animation(tmp_path / "known.npz", dataclasses.replace(animation, vertices=twice, fps=2 * talker.fps), waveform)
    fitting = ["fit-style", "--checkpoint", "workdir", "--template", mesh, "--audio", voice, "--emotion", "neutral"]
    fitted = []
    for name, *rate in (("own.npy",), ("twice.npy", "--fps", str(2 * talker.fps)), ("known.npz",)):
        style = str(tmp_path / f"style-{name[:-4]}.npz")
        assert main([*fitting, "--motion", str(tmp_path / name), *rate, "--out", style]) == 0
        fitted.append(Style.load(style))
    for other in fitted[1:]:
        np.testing.assert_allclose(other.kernel, fitted[0].kernel, atol=1e-6)
        np.testing.assert_allclose(other.bias, fitted[0].bias, atol=1e-6)
    capsys.readouterr()
    assert main([*fitting, "--motion", str(tmp_path / "own.npy"), "--fps", "0", "--out", str(tmp_path / "c.npz")]) == 2
    assert "error: --fps 0: must be more than 0" in capsys.readouterr().err


def test_a_recording_of_weights_gives_the_style_of_its_vertices(capture, tmp_path, monkeypatch, capsys):
    talker, (waveform, vertices, face, _) = subject_talker(), capture
    monkeypatch.setattr(SEDTalker, "load", lambda directory: talker)
    rng = np.random.default_rng(0)
    shapes = rng.normal(0, 0.01, (2, *face.vertices.shape))
    np.savez(tmp_path / "basis.npz", mean=face.vertices, shapes=shapes, names=np.array(["jawOpen", "mouthPucker"]))
    basis = BlendshapeBasis.load(tmp_path / "basis.npz")
    weights = np.round(rng.uniform(0, 1, (len(vertices), 2)), 5)
    write_live_link(tmp_path / "take.csv", basis, weights, talker.fps)
    np.save(tmp_path / "take.npy", (face.vertices + np.tensordot(weights, shapes, 1)).astype(np.float32))
    voice, mesh = str(tmp_path / "a.wav"), written(face, tmp_path / "a.obj")
    soundfile.write(voice, waveform, 16_000, subtype="FLOAT")
    fitting = ["fit-style", "--checkpoint", "workdir", "--template", mesh, "--audio", voice, "--emotion", "neutral"]
    fitted = []
    for name, *more in (("take.npy",), ("take.csv", "--basis", str(tmp_path / "basis.npz"))):
        style = str(tmp_path / f"{name}.npz")
        assert main([*fitting, "--motion", str(tmp_path / name), *more, "--out", style]) == 0
        fitted.append(Style.load(style))
    np.testing.assert_allclose(fitted[1].kernel, fitted[0].kernel, atol=1e-5)
    capsys.readouterr()
    assert main([*fitting, "--motion", str(tmp_path / "take.csv"), "--out", str(tmp_path / "c.npz")]) == 2
    assert "give them as --basis" in capsys.readouterr().err


def test_the_commands_fit_a_style_and_animate_with_it(capture, tmp_path, capsys, monkeypatch):
    talker, (waveform, vertices, face, _) = subject_talker(), capture
    monkeypatch.setattr(SEDTalker, "load", lambda directory: talker)
    voice, motion, style, out = (str(tmp_path / name) for name in ("a.wav", "a.npy", "a.npz", "b.npy"))
    mesh = written(face, tmp_path / "a.obj")
    soundfile.write(voice, waveform, 16_000, subtype="FLOAT")
    np.save(motion, vertices)
    given = ["--checkpoint", "workdir", "--template", mesh]
    talker.diarize(waveform).save(tmp_path / "felt.npz")
    felt = ["--track", str(tmp_path / "felt.npz")]
    assert main(["fit-style", *given, "--audio", voice, "--motion", motion, *felt, "--out", style]) == 0
    assert "last third" in capsys.readouterr().out
    assert main(["animate", voice, *given, "--style", style, "--out", out]) == 0
    np.testing.assert_allclose(
        np.load(out), talker.with_style(Style.load(style)).animate(waveform, template=mesh).vertices, atol=1e-6
    )
    capsys.readouterr()
    fitted, fitting = (tmp_path / "a.npz").read_bytes(), ["fit-style", *given, "--audio", voice]
    unsaid = ([], [*felt, "--emotion", "neutral"], [*felt, "--intensity", "0.5"], ["--emotion", "neutral", "--intensity", "2"])
    for flags in unsaid:
        assert main([*fitting, "--motion", motion, *flags, "--out", style]) == 2
        assert "--emotion" in capsys.readouterr().err
    assert main([*fitting, "--motion", motion, "--emotion", "bored", "--out", style]) == 2
    assert "--emotion bored: " in capsys.readouterr().err
    for flags in (
        ["--motion", style, *felt],
        ["--motion", motion, "--track", style],
        ["--motion", motion, *felt, "--embedding", style],
    ):
        assert main([*fitting, *flags, "--out", style]) == 2
        assert "the same command reads it" in capsys.readouterr().err
    np.save(motion, 1_000 * vertices)
    assert main([*fitting, "--motion", motion, *felt, "--out", style]) == 2
    assert f"error: {motion}: the capture lies" in capsys.readouterr().err
    EmotionTrack.constant("bored", 1.0, SECONDS, ("neutral", "bored")).save(tmp_path / "bored.npz")
    assert main([*fitting, "--motion", motion, "--track", str(tmp_path / "bored.npz"), "--out", style]) == 2
    assert "bored.npz: the track speaks of bored" in capsys.readouterr().err
    assert (tmp_path / "a.npz").read_bytes() == fitted
    both = [*given, "--style", style, "--subject", "ann", "--out", out]
    for command in (["animate", voice], ["edit", voice, "--happy", "1"]):
        assert main([*command, *both]) == 2
        assert "--subject and --style" in capsys.readouterr().err


def test_the_start_is_kept_where_nothing_is_better(capture):
    talker, (waveform, _, face, track) = subject_talker(), capture
    nobodys = talker.animate(waveform, track, template=face).vertices
    fit = fit_style(talker, waveform, nobodys, face, track, num_steps=3)
    np.testing.assert_array_equal(fit.style.vector, np.asarray(talker.params["animator"]["subject"]["embedding"])[0])
    assert fit.after <= fit.before < 1e-6
    np.testing.assert_allclose(
        talker.with_style(fit.style).animate(waveform, track, template=face).vertices, nobodys, atol=1e-6
    )


def test_what_cannot_be_fitted_is_named(capture, tmp_path):
    talker, (waveform, vertices, face, track) = subject_talker(), capture
    with pytest.raises(UserError, match="at least 3 s"):
        fit_style(talker, waveform[:20_000], vertices[:37], face, track)
    with pytest.raises(UserError, match="not one capture"):
        fit_style(talker, waveform, vertices[:60], face, track)
    with pytest.raises(UserError, match="5 vertices"):
        fit_style(talker, waveform, vertices[:, :5], face, track)
    turned = vertices @ np.array([[0, 1, 0], [-1, 0, 0], [0, 0, 1]], np.float32)
    for misplaced in (1_000 * vertices, vertices + np.float32([0, 0, 0.1]), turned):
        with pytest.raises(UserError, match="in metres and posed like the template"):
            fit_style(talker, waveform, misplaced, face, track)
    with pytest.raises(UserError, match="another checkpoint"):
        talker.with_style(nobodys_style("0" * 16))
    (tmp_path / "x.npz").write_text("no style")
    with pytest.raises(UserError, match="x.npz: no style"):
        Style.load(tmp_path / "x.npz")
