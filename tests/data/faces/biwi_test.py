import numpy as np
import pytest

from sedtalker_jax.data.faces import biwi, biwi_6
from sedtalker_jax.data.faces.biwi import MILLIMETRES_PER_UNIT
from sedtalker_jax.data.faces.motion_code import TOLERANCE_M, true_vertices
from sedtalker_jax.data.prepare import check_choices
from sedtalker_jax.errors import UserError
from sedtalker_jax.face.space import FaceSpace
from tests.data.faces import trees


def listed(corpus, root, **options):
    return corpus.list_clips(root, check_choices(corpus, 0, options))


def test_biwi_becomes_metres_by_its_published_factors(tmp_path):
    root = trees.write_biwi(tmp_path / "BIWI")
    listing, made = trees.build(biwi.CORPUS, root, tmp_path / "out", test="b")
    space = FaceSpace.load(tmp_path / "out" / "face_space.npz")
    assert space.topology == "biwi" and space.fps == 25.0
    assert {clip.id: clip.split for clip in listing.clips} == {"F2_e01": "train", "F2_e33": "valid", "F1_e37": "test"}
    for name, record in made.items():
        scale = MILLIMETRES_PER_UNIT[name[:2]] / 1000
        original = np.load(root / "vertices_npy" / f"{name}.npy").reshape(-1, 23370, 3) * scale
        assert np.linalg.norm(true_vertices(record, space) - original, axis=-1).max() <= TOLERANCE_M
        assert record["metres_per_unit"] == scale
        # Emotional, but nobody says how: no label is made up.
        assert np.isnan(record["activation"]).all() and record["expression"] == "" and record["condition"] == "voice"
    height = np.ptp(space.template("F1").vertices[:, 1])
    assert 0.2 < height < 0.3


def test_tests_a_and_b_and_what_is_outside(tmp_path):
    root = trees.write_biwi(tmp_path, 3895)
    first, second = (listed(biwi_6.CORPUS, root, test=test) for test in "ab")
    assert [clip.id for clip in first.clips if clip.split == "test"] == ["F2_e37"]
    assert [clip.id for clip in second.clips if clip.split == "test"] == ["F1_e37"]
    assert [clip.fields["official_split"] for clip in second.clips] == ["test_b", "train", "valid"]
    found = trees.reasons(first)
    assert found["no emotional sentence of BIWI"] == {"F1_01", "F2_01"}
    assert found["outside the chosen split"] == {"F1_e01", "F1_e33", "F1_e37"}


@pytest.mark.parametrize("unit, scale", [(1.0, 1.0), (0.001, 0.001)])
def test_units_are_told_by_the_size_of_a_face(tmp_path, unit, scale):
    root = trees.write_biwi(tmp_path, 3895, unit=unit)
    assert set(listed(biwi_6.CORPUS, root).manifest["metres_per_unit"].values()) == {scale}


def test_units_can_be_named_and_unknown_ones_are_not_guessed(tmp_path):
    root = trees.write_biwi(tmp_path, 3895, unit=0.01)
    with pytest.raises(UserError, match="units high: no known unit; give --option unit=METRES"):
        listed(biwi_6.CORPUS, root)
    assert set(listed(biwi_6.CORPUS, root, unit="0.01").manifest["metres_per_unit"].values()) == {0.01}
    with pytest.raises(UserError, match="unit=inch"):
        listed(biwi_6.CORPUS, root, unit="inch")


def test_the_two_meshes_are_not_confused(tmp_path):
    root = trees.write_biwi(tmp_path, 3895)
    with pytest.raises(UserError, match=r"has 3895 vertices, biwi has 23370 \(--corpus biwi_6 reads 3,895\)"):
        listed(biwi.CORPUS, root)
    with pytest.raises(UserError, match="no folder vertices_npy/; found"):
        listed(biwi.CORPUS, root / "wav")
