import numpy as np
import pytest

from sedtalker_jax.data.faces import threed_ravdess, threedmead
from sedtalker_jax.data.faces.flame import Flame
from sedtalker_jax.data.faces.flame_parameters import mean_shape, read_parameters
from sedtalker_jax.data.faces.motion_code import TOLERANCE_M, true_vertices
from sedtalker_jax.data.prepare import check_choices
from sedtalker_jax.emotion.labels import ACTIVE, CANONICAL
from sedtalker_jax.errors import UserError
from sedtalker_jax.face.space import FaceSpace
from tests.data.faces import trees

V = 120
MEAD = [
    "M003_001_0_0", "M003_002_6_2", "M003_026_4_0", "M003_030_1_1", "M003_031_1_1", "M003_004_7_1",
    "M032_001_2_1", "W037_009_6_2",
]  # fmt: skip


@pytest.fixture(scope="module")
def flame(tmp_path_factory):
    folder = trees.write_flame(tmp_path_factory.mktemp("FLAME"), V)
    trees.write_regions(folder / "regions", V)
    return folder


@pytest.fixture(scope="module")
def mead(tmp_path_factory):
    return trees.write_parameters(tmp_path_factory.mktemp("mead"), MEAD)


def test_parameters_become_vertices_of_one_identity_with_emotional_voice(mead, flame, tmp_path):
    listing, made = trees.build(threedmead.CORPUS, mead, tmp_path, flame=str(flame))
    space = FaceSpace.load(tmp_path / "face_space.npz")
    model = Flame.load(flame)
    shape = mean_shape(sorted((mead / "param").glob("M003*.npy")))
    np.testing.assert_allclose(space.template("M003").vertices, model.neutral(shape), atol=1e-6)
    for name, record in made.items():
        _, expression, jaw = read_parameters(mead / "param" / f"{name}.npy")
        original = model.vertices(shape, expression, jaw)
        assert np.linalg.norm(true_vertices(record, space) - original, axis=-1).max() <= TOLERANCE_M
        assert record["fps"] == 25.0 and record["condition"] == "voice"
    angry = made["M003_002_6_2"]
    assert (angry["label"], angry["voice_emotion"], angry["expression"]) == ("angry", "angry", "angry")
    assert (angry["level"], angry["level_scale"], angry["strength"]) == (2, "mead", 1.0)
    np.testing.assert_array_equal(angry["activation"][:, ACTIVE.index("angry")], 1.0)
    assert (angry["emotion"] == CANONICAL.index("angry")).mean() > 0.9 and angry["segments"][0][2] == "angry"
    assert made["M003_026_4_0"]["strength"] == pytest.approx(1 / 3)
    assert not made["M003_001_0_0"]["activation"].any() and "level" not in made["M003_001_0_0"]
    assert {clip.id: clip.split for clip in listing.clips} == {
        "M003_001_0_0": "train", "M003_002_6_2": "train", "M003_026_4_0": "valid", "M003_030_1_1": "test",
    }  # fmt: skip


def test_the_two_published_splits(mead):
    sentences = threedmead.CORPUS.list_clips(mead, check_choices(threedmead.CORPUS, 0, {}))
    assert trees.reasons(sentences) == {
        "outside the chosen split": {"M003_031_1_1", "M032_001_2_1", "W037_009_6_2"},
        "expression without a canonical emotion": {"M003_004_7_1"},
    }
    subjects = threedmead.CORPUS.list_clips(mead, check_choices(threedmead.CORPUS, 0, {"split": "subjects"}))
    assert {clip.speaker: clip.split for clip in subjects.clips} == {"M003": "train", "M032": "valid", "W037": "test"}
    assert len(subjects.clips) == 7
    assert [threedmead.split_of("M003", n, True, "sentences") for n in (32, 33, 36, 37, 40, 41)] == [
        "train", "valid", "valid", "test", "test", None,
    ]  # fmt: skip


def test_ravdess_by_actor_with_emocas_own_widths(flame, tmp_path):
    stems = ["03-01-05-02-01-01-01", "03-01-02-01-01-01-21", "03-01-08-01-02-02-24", "03-02-05-01-01-01-03"]
    root = trees.write_parameters(tmp_path / "ravdess", stems, fps=30.0)
    for stem in stems[:2]:
        whole = np.load(root / "param" / f"{stem}.npy")[0]
        (root / "param" / f"{stem}.npy").unlink()
        pose = np.concatenate([np.zeros((len(whole), 3)), whole[:, 400:]], axis=1)
        parts = {"shape": whole[:, :100], "exp": whole[:, 300:350], "pose": pose}
        np.savez(root / "param" / f"{stem}.npz", **parts)
        np.save(root / "param" / f"{stem}_156.npy", np.concatenate([parts["shape"], parts["exp"], pose], axis=1))
        for one, other in zip(
            read_parameters(root / "param" / f"{stem}.npz"), read_parameters(root / "param" / f"{stem}_156.npy"), strict=True
        ):
            np.testing.assert_array_equal(one, other)
        (root / "param" / f"{stem}_156.npy").unlink()
    corpus = threed_ravdess.CORPUS
    listing, made = trees.build(corpus, root, tmp_path / "out", flame=str(flame), calm="neutral")
    assert {clip.speaker: clip.split for clip in listing.clips} == {"actor01": "train", "actor21": "valid", "actor24": "test"}
    assert made[stems[0]]["strength"] == 1.0 and made[stems[0]]["sex"] == "male" and made[stems[0]]["fps"] == 30.0
    assert made[stems[1]]["expression"] == "neutral" and made[stems[2]]["strength"] == 0.5
    assert trees.reasons(listing) == {"no speech clip of RAVDESS": {stems[3]}}
    left_out = corpus.list_clips(root, check_choices(corpus, 0, {}))
    assert trees.reasons(left_out)["expression without a canonical emotion"] == {stems[1]}


def test_flame_must_be_named_and_parameters_must_be_whole(mead, flame, tmp_path):
    corpus = threedmead.CORPUS
    with pytest.raises(UserError, match="give --option flame=DIR with FLAME's generic_model.pkl"):
        trees.build(corpus, mead, tmp_path)
    with pytest.raises(UserError, match="no FLAME model"):
        trees.build(corpus, mead, tmp_path, flame=str(mead))
    path = tmp_path / "bad.npy"
    np.save(path, np.zeros((5, 100)))
    with pytest.raises(UserError, match=r"shape \[5, 100\]; FLAME parameters are \[F, 403\] or \[F, 156\]"):
        read_parameters(path)
    np.save(path, np.full((5, 403), np.nan))
    with pytest.raises(UserError, match="not finite"):
        read_parameters(path)
    np.savez(tmp_path / "bad.npz", shape=np.zeros((5, 100)))
    with pytest.raises(UserError, match="shape, exp and jaw"):
        read_parameters(tmp_path / "bad.npz")
    with pytest.raises(UserError, match="expected param/ and wav/"):
        corpus.list_clips(tmp_path, check_choices(corpus, 0, {}))
