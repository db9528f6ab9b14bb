import numpy as np
import pytest

from sedtalker_jax.data import cross_fade, prepare, records
from sedtalker_jax.data.faces.emovoca import CORPUS, EXPRESSIONS
from sedtalker_jax.data.faces.motion_code import TOLERANCE_M, true_displacements, true_vertices
from sedtalker_jax.data.prepare import check_choices
from sedtalker_jax.emotion.labels import ACTIVE
from sedtalker_jax.errors import UserError
from sedtalker_jax.face.space import FaceSpace
from tests.data.faces import trees

OPTIONS = check_choices(CORPUS, 0, {})
NEUTRAL_STEM = f"{trees.TRAIN[0]}_sentence01"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return trees.write_emovoca(tmp_path_factory.mktemp("Dataset"), expressions=("Smile2", "Moody"), levels=(1, 3))


def original_of(dataset, name):
    folder = "vocaset/vertices_npy" if name.endswith(tuple("0123456789")) and "_" not in name[-3:] else "EmoVOCA/sequences"
    return np.load(dataset / folder / f"{name}.npy").reshape(-1, 5023, 3)


def test_expression_and_level_are_the_faces_and_the_voice_is_neutral(dataset, tmp_path):
    listing, made = trees.build(CORPUS, dataset, tmp_path)
    space = FaceSpace.load(tmp_path / "face_space.npz")
    happy = ACTIVE.index("happy")
    for name, record in made.items():
        assert (record["voice_emotion"], record["condition"]) == ("neutral", "schedule")
        assert (record["emotion"] == -1).all() and record["segments"] == []
        error = np.linalg.norm(true_vertices(record, space) - original_of(dataset, name), axis=-1)
        assert error.max() <= TOLERANCE_M
    strong = made[f"{NEUTRAL_STEM}_Smile2_3"]
    weak = made[f"{NEUTRAL_STEM}_Smile2_1"]
    assert strong["expression"] == "happy" and strong["expression_level"] == 3 and strong["native_expression"] == "Smile2"
    np.testing.assert_array_equal(strong["activation"][:, happy], 1.0)
    np.testing.assert_allclose(weak["activation"][:, happy], 1 / 3, atol=1e-3)
    assert not np.delete(weak["activation"], happy, axis=1).any()
    assert made[NEUTRAL_STEM]["expression"] == "neutral" and not made[NEUTRAL_STEM]["activation"].any()
    assert listing.manifest["expressions"] == {"happy": 16, "neutral": 8}
    assert len(trees.reasons(listing)["expression without a canonical emotion"]) == 16
    # EmoVOCA's split has every sentence of every subject.
    assert {clip.fields["sentence"] for clip in listing.clips if clip.split == "test"} == {"sentence05", "sentence30"}


def test_every_layout_that_people_have(dataset, tmp_path):
    inside = CORPUS.list_clips(dataset, OPTIONS)
    direct = CORPUS.list_clips(dataset / "EmoVOCA", OPTIONS)
    assert [clip.id for clip in inside.clips] == [clip.id for clip in direct.clips]
    assert all((dataset / "EmoVOCA" / clip.motion).exists() for clip in direct.clips)
    alone = CORPUS.list_clips(dataset, check_choices(CORPUS, 0, {"neutral": "none"}))
    assert {clip.expression for clip in alone.clips} == {"happy"}
    (tmp_path / "elsewhere").mkdir()
    (dataset / "EmoVOCA").rename(tmp_path / "elsewhere" / "EmoVOCA")
    try:
        with pytest.raises(UserError, match="templates.pkl: missing; .* --option vocaset=DIR"):
            CORPUS.list_clips(tmp_path / "elsewhere", OPTIONS)
        named = CORPUS.list_clips(tmp_path / "elsewhere", check_choices(CORPUS, 0, {"vocaset": str(dataset / "vocaset")}))
        assert [clip.id for clip in named.clips] == [clip.id for clip in inside.clips]
    finally:
        (tmp_path / "elsewhere" / "EmoVOCA").rename(dataset / "EmoVOCA")


def test_a_sound_may_be_shared_by_all_expressions(dataset):
    wav = dataset / "EmoVOCA" / "wav" / f"{NEUTRAL_STEM}_Smile2_1.wav"
    content = wav.read_bytes()
    wav.unlink()
    try:
        clips = {clip.id: clip for clip in CORPUS.list_clips(dataset, OPTIONS).clips}
        assert clips[f"{NEUTRAL_STEM}_Smile2_1"].path == f"vocaset/wav/{NEUTRAL_STEM}.wav"
    finally:
        wav.write_bytes(content)


def test_level_zero_is_the_generators_neutral_once(dataset):
    source = dataset / "vocaset" / "vertices_npy" / f"{NEUTRAL_STEM}.npy"
    added = [dataset / "EmoVOCA" / "sequences" / f"{NEUTRAL_STEM}_{name}_0.npy" for name in ("Smile2", "Ill")]
    for path in added:
        path.write_bytes(source.read_bytes())
    try:
        listing = CORPUS.list_clips(dataset, OPTIONS)
        neutral = [clip for clip in listing.clips if clip.expression == "neutral" and clip.id.startswith(NEUTRAL_STEM)]
        assert [clip.id for clip in neutral] == [f"{NEUTRAL_STEM}_Ill_0"] and neutral[0].strength == 0.0
        found = trees.reasons(listing)
        assert found["level 0 of another expression, the same motion"] == {f"{NEUTRAL_STEM}_Smile2_0"}
        assert found["the generator's own neutral stands for it"] == {NEUTRAL_STEM}
    finally:
        for path in added:
            path.unlink()


def test_a_label_that_contradicts_the_name_is_no_truth(dataset, tmp_path):
    clip = next(clip for clip in CORPUS.list_clips(dataset, OPTIONS).clips if clip.id.endswith("_Smile2_3"))
    trees.build(CORPUS, dataset, tmp_path)
    file = dataset / "EmoVOCA" / "label" / f"{clip.id}.npy"
    np.save(file, EXPRESSIONS["Sad1"][0])
    try:
        with pytest.raises(UserError, match="label/.*says 3, but the name of the clip means 4"):
            CORPUS.make_record(clip, dataset, tmp_path)
    finally:
        np.save(file, EXPRESSIONS["Smile2"][0])


def test_a_folder_that_is_not_emovoca_is_named(tmp_path):
    (tmp_path / "pictures").mkdir()
    with pytest.raises(UserError, match=r"not EmoVOCA: no folder sequences/ .*found pictures"):
        CORPUS.list_clips(tmp_path, OPTIONS)


@pytest.fixture(scope="module")
def published(request, tmp_path_factory):
    """Prepared records of faces with FLAME's published triangles and EmoVOCA's published expressions."""
    samples = request.getfixturevalue("samples")
    root = tmp_path_factory.mktemp("emovoca")
    trees.write_emovoca(root / "Dataset", samples, expressions=("Smile2", "Irritated1"))
    manifest = prepare.prepare("emovoca", root / "Dataset", root / "out", workers=2, progress=False, options={"fps": "30"})
    return root, manifest


def test_prepare_writes_shards_of_the_published_meshes(published):
    root, manifest = published
    assert manifest["face_space"]["topology"] == "flame" and manifest["fps"] == 30.0
    assert manifest["face_space"]["lips"] == "lve of regions, 502 vertices"
    assert manifest["speaker_disjoint"] and set(manifest["splits"]["train"]["speakers"]) == set(trees.TRAIN)
    assert {name: entry["clips"] for name, entry in manifest["splits"]["train"]["expressions"].items()} == {
        "angry": 8, "happy": 8, "neutral": 4,
    }  # fmt: skip
    space = FaceSpace.load(root / "out" / records.FACE_SPACE)
    reader = records.RecordReader(root / "out", "test")
    worst = 0.0
    for record in reader:
        original = original_of(root / "Dataset", record["id"])[::2]
        worst = max(worst, np.linalg.norm(true_vertices(record, space) - original, axis=-1).max())
    assert len(reader) == 10 and worst <= TOLERANCE_M
    index = reader.index()
    assert set(index.expression) == {"angry", "happy", "neutral"} and len(set(index.sound)) == 2


def test_published_expressions_fade_into_each_other_in_the_face_space(published):
    root, _ = published
    space = FaceSpace.load(root / "out" / records.FACE_SPACE)
    reader = records.RecordReader(root / "out", "train")
    index = reader.index()
    recordings = cross_fade.same_recording(index)
    assert [len(rows) for rows in recordings] == [5] * 4
    projections = cross_fade.region_projections(space)
    masks = cross_fade.region_masks(space.num_vertices, space.faces, space.regions)
    for seed, rows in enumerate(recordings):
        chosen = cross_fade.draw_rows(rows, index, 1, np.random.default_rng(seed))
        pair = [reader[row] for row in chosen]
        faded = cross_fade.cross_fade(pair, projections, [0.5], np.random.default_rng(seed))
        (change,) = faded["fade"]["changes"]
        wanted = 0.0
        for mask, region in zip(masks.T, change["regions"].values(), strict=True):
            weights = cross_fade.fade_weights(np.arange(30) / 30, [region["centre_s"]], [region["length_s"]])
            wanted = wanted + sum(
                weights[:, k, None, None] * mask[None, :, None] * true_displacements(clip, space) for k, clip in enumerate(pair)
            )
        error = np.linalg.norm(space.displacements(faded["motion"]) - wanted, axis=-1)
        assert error.max() < 1e-4, f"{error.max() * 1e3:.3f} mm"


def test_prepared_bytes_do_not_depend_on_the_workers(published, tmp_path):
    root, _ = published
    prepare.prepare("emovoca", root / "Dataset", tmp_path, workers=1, progress=False, options={"fps": "30"})
    names = sorted(path.name for path in (root / "out").iterdir() if path.suffix == ".arrayrecord")
    for name in [*names, "face_space.npz"]:
        assert (root / "out" / name).read_bytes() == (tmp_path / name).read_bytes(), name
