import numpy as np
import pytest

from sedtalker_jax.data.faces.motion_code import TOLERANCE_M, true_vertices
from sedtalker_jax.data.faces.vocaset import CORPUS, SPLIT_OF_SUBJECT
from sedtalker_jax.data.prepare import check_choices
from sedtalker_jax.data.records import decode_flac
from sedtalker_jax.errors import UserError
from sedtalker_jax.face.space import FaceSpace
from tests.data.faces import trees

MESH, FACES = trees.flame_mesh(None)
OPTIONS = check_choices(CORPUS, 0, {})


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    return trees.write_vocaset(tmp_path_factory.mktemp("vocaset"), MESH, FACES)


def test_records_hold_the_motion_the_neutral_voice_and_the_published_split(converted, tmp_path):
    listing, made = trees.build(CORPUS, converted, tmp_path)
    space = FaceSpace.load(tmp_path / "face_space.npz")
    assert space.topology == "flame" and space.num_vertices == 5023 and space.fps == 60.0
    assert {"lips", "upper_face", "lve", "fdd"} <= set(space.regions) and len(space.regions["lips"]) == 502
    assert set(space.template_names) == {*trees.TRAIN, trees.VALID, trees.TEST}
    for record in made.values():
        original = np.load(converted / "vertices_npy" / f"{record['id']}.npy").reshape(-1, 5023, 3)
        stored = true_vertices(record, space)
        assert stored.shape == original.shape and np.linalg.norm(stored - original, axis=-1).max() <= TOLERANCE_M
        assert record["fps"] == 60.0 and record["num_samples"] == 16_000
        assert (record["voice_emotion"], record["condition"], record["expression"]) == ("neutral", "schedule", "neutral")
        assert not record["activation"].any() and record["activation"].shape == (60, 7)
        assert (record["emotion"] == -1).all() and len(record["emotion"]) == 49 and np.isnan(record["intensity"]).all()
    splits = {clip.id: clip.split for clip in listing.clips}
    assert splits[f"{trees.TRAIN[0]}_sentence01"] == "train" and splits[f"{trees.VALID}_sentence30"] == "valid"
    assert splits[f"{trees.TEST}_sentence30"] == "test"
    outside = {f"{trees.VALID}_sentence05", f"{trees.TEST}_sentence05"}
    assert trees.reasons(listing) == {"outside the published split": outside}
    everything = CORPUS.list_clips(converted, check_choices(CORPUS, 0, {"split": "all"}))
    assert len(everything.clips) == len(trees.voca_clips())


def test_the_published_split_has_its_eight_two_and_two_subjects():
    counts = {split: list(SPLIT_OF_SUBJECT.values()).count(split) for split in ("train", "valid", "test")}
    assert counts == {"train": 8, "valid": 2, "test": 2}


def test_the_original_layout_gives_the_same_records(converted, tmp_path):
    original = trees.write_original_vocaset(tmp_path / "voca", MESH, FACES)
    _, one = trees.build(CORPUS, converted, tmp_path / "a")
    listing, other = trees.build(CORPUS, original, tmp_path / "b")
    assert listing.manifest == {"layout": "original"} and set(one) == set(other)
    space = FaceSpace.load(tmp_path / "b" / "face_space.npz")
    for name, record in other.items():
        subject, sentence = name.rsplit("_", 1)
        wanted = trees.voca_motion(trees.voca_templates(MESH), subject, sentence)
        assert np.linalg.norm(true_vertices(record, space) - wanted, axis=-1).max() <= TOLERANCE_M
        difference = decode_flac(record["audio"]) - decode_flac(one[name]["audio"])
        assert np.abs(difference).max() < 1e-3


def test_half_the_frame_rate_is_every_second_frame(converted, tmp_path):
    _, made = trees.build(CORPUS, converted, tmp_path, fps="30")
    space = FaceSpace.load(tmp_path / "face_space.npz")
    record = made[f"{trees.TEST}_sentence30"]
    original = np.load(converted / "vertices_npy" / f"{record['id']}.npy").reshape(-1, 5023, 3)[::2]
    assert record["fps"] == space.fps == 30.0 and record["num_samples"] == 16_000
    assert np.linalg.norm(true_vertices(record, space) - original, axis=-1).max() <= TOLERANCE_M
    with pytest.raises(UserError, match="must divide the data set's 60 fps"):
        trees.build(CORPUS, converted, tmp_path, fps="25")


def test_another_data_sets_basis_can_be_used(converted, tmp_path):
    trees.build(CORPUS, converted, tmp_path / "a")
    first = FaceSpace.load(tmp_path / "a" / "face_space.npz")
    _, made = trees.build(CORPUS, converted, tmp_path / "b", space=str(tmp_path / "a"), fps="30")
    second = FaceSpace.load(tmp_path / "b" / "face_space.npz")
    np.testing.assert_array_equal(first.basis, second.basis)
    assert second.fps == 30.0 and set(second.template_names) == set(first.template_names)


def test_flame_masks_are_taken_and_their_doubles_are_not(converted, tmp_path):
    masks = {
        "lips": np.array([9, 7, 7, 8]), "forehead": np.arange(40, 50), "eye_region": np.arange(45, 60),
        "left_eye_region": np.arange(3), "right_eye_region": np.arange(3, 6), "neck": np.zeros(0, np.int64),
    }  # fmt: skip
    path = trees.write_old_pickle(tmp_path / "FLAME_masks.pkl", masks)
    trees.build(CORPUS, converted, tmp_path / "out", regions=str(path), rank="4")
    space = FaceSpace.load(tmp_path / "out" / "face_space.npz")
    assert space.regions["lips"].tolist() == [7, 8, 9] and space.regions["upper_face"].tolist() == list(range(40, 60))
    assert space.rank == 4 and CORPUS.manifest(tmp_path / "out")["face_space"]["upper_face"] == (
        "forehead+eye_region of FLAME_masks.pkl, 20 vertices"
    )


def test_files_without_a_partner_are_named(tmp_path):
    root = trees.write_vocaset(tmp_path / "vocaset", MESH, FACES)
    first, second, third, *_ = sorted(path.stem for path in (root / "wav").glob("*.wav"))
    (root / "vertices_npy" / f"{first}.npy").unlink()
    (root / "wav" / f"{second}.wav").unlink()
    (root / "vertices_npy" / f"._{third}.npy").write_bytes(b"macOS")
    listing = CORPUS.list_clips(root, OPTIONS)
    found = trees.reasons(listing)
    assert found["no motion"] == {first} and found["no sound"] == {second}
    assert third in {clip.id for clip in listing.clips} | found["outside the published split"]


def test_damaged_clips_are_refused_one_by_one(tmp_path):
    root = trees.write_vocaset(tmp_path / "vocaset", MESH, FACES)
    trees.build(CORPUS, root, tmp_path / "out")
    clips = {clip.id: clip for clip in CORPUS.list_clips(root, OPTIONS).clips}
    name = f"{trees.TRAIN[0]}_sentence01"
    path = root / "vertices_npy" / f"{name}.npy"

    def refused(match):
        with pytest.raises(UserError, match=match):
            CORPUS.make_record(clips[name], root, tmp_path / "out")

    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    refused("not a whole .npy file")
    np.save(path, np.zeros((60, 11685)))
    refused(r"shape \[60, 11685\], not \[frames, 5023, 3\]")
    np.save(path, np.array([{"a": 1}], dtype=object))
    refused("not a whole .npy file")
    broken = np.frombuffer(whole[-60 * 15069 * 4 :], np.float32).reshape(60, 15069).copy()
    broken[3, 7] = np.nan
    np.save(path, broken)
    refused("not finite")
    np.save(path, np.repeat(broken[:1], 200, axis=0))
    refused("200 frames at 60 fps last 3.33 s, its sound 1.00 s")


def test_wrong_roots_and_missing_files_are_explained(tmp_path):
    with pytest.raises(UserError, match="not VOCASET: it has neither vertices_npy/.*found nothing"):
        CORPUS.list_clips(tmp_path, OPTIONS)
    trees.write_array(tmp_path / "data_verts.npy", np.zeros((1, 5023, 3)))
    with pytest.raises(UserError, match="raw_audio_fixed.pkl: missing; plain unzip leaves it .* 7z"):
        CORPUS.list_clips(tmp_path, OPTIONS)
    root = trees.write_vocaset(tmp_path / "vocaset", MESH, FACES)
    (root / "regions").rename(root / "hidden")
    with pytest.raises(UserError, match="FLAME_masks.pkl or a folder regions/ with lve.txt"):
        trees.build(CORPUS, root, tmp_path / "out")
    (root / "hidden").rename(root / "regions")
    (root / "templates" / "FLAME_sample.ply").unlink()
    with pytest.raises(UserError, match="copy FLAME_sample.ply there or give --option mesh=FILE"):
        trees.build(CORPUS, root, tmp_path / "out")
