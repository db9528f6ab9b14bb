import numpy as np
import pytest

from sedtalker_jax.data.faces.captures import CORPUS, UNREADABLE
from sedtalker_jax.data.faces.motion_code import TOLERANCE_M, true_vertices
from sedtalker_jax.data.prepare import check_choices
from sedtalker_jax.emotion.labels import ACTIVE, CANONICAL
from sedtalker_jax.errors import UserError
from sedtalker_jax.face.blendshape_basis import BlendshapeBasis
from sedtalker_jax.face.chart import TOPOLOGY
from sedtalker_jax.face.head import HeadSpec, make_head
from sedtalker_jax.face.live_link import write_live_link
from sedtalker_jax.face.rig import ARKIT_NAMES
from sedtalker_jax.face.space import FaceSpace
from tests.data.faces import trees

V, F, FPS = 90, 24, 24.0
FACES = trees.triangles(V, 100)


def write(root, stems, *, scale=1.0, kind="npy", **arrays):
    """Captures of one head per speaker; `scale` units per metre."""
    speakers = sorted({stem.split("_")[0] for stem in stems})
    for i, speaker in enumerate(speakers):
        trees.write_ply(root / "templates" / f"{speaker}.ply", trees.head(V, i) * scale, FACES)
    for number, stem in enumerate(stems):
        template = trees.head(V, speakers.index(stem.split("_")[0]))
        vertices = trees.motion(template, F, seed=number) * scale
        if kind == "npy":
            trees.write_array(root / "vertices" / f"{stem}.npy", vertices)
        else:
            (root / "vertices").mkdir(parents=True, exist_ok=True)
            np.savez(root / "vertices" / f"{stem}.npz", vertices=vertices.reshape(F, -1), fps=FPS, **arrays)
        trees.write_sound(root / "wav" / f"{stem}.wav", F / FPS, rate=48_000, seed=number)
    trees.write_regions(root / "regions", V)
    return root


def listed(root, **options):
    return CORPUS.list_clips(root, check_choices(CORPUS, 0, options))


def test_bare_captures_of_many_speakers_are_split_by_speaker(tmp_path):
    stems = [f"s{speaker}_take{take}" for speaker in range(4) for take in range(2)]
    root = write(tmp_path / "captures", stems, scale=1000.0)
    listing, made = trees.build(CORPUS, root, tmp_path / "out", capture_fps="24", unit="mm")
    space = FaceSpace.load(tmp_path / "out" / "face_space.npz")
    assert space.topology == "mesh-90" and space.fps == FPS and listing.manifest["split_by"] == "speaker"
    assert {clip.speaker: clip.split for clip in listing.clips} == {"s0": "train", "s1": "train", "s2": "valid", "s3": "test"}
    for name, record in made.items():
        original = np.load(root / "vertices" / f"{name}.npy") / 1000.0
        # The PLY of the template holds 0.1 micrometres; the motion is stored against it.
        assert np.linalg.norm(true_vertices(record, space) - original, axis=-1).max() <= TOLERANCE_M
        assert record["fps"] == FPS and record["num_samples"] == 16_000
        assert record["expression"] == "" and np.isnan(record["activation"]).all() and (record["emotion"] == -1).all()


def test_labels_intensity_and_splits_from_the_table(tmp_path):
    root = write(tmp_path / "captures", ["a_1", "a_2", "b_1", "b_2"])
    (root / "clips.csv").write_text(
        "id,split,emotion,intensity,voice_emotion,fps,sentence\n"
        "a_1,train,anger,0.5,,24,hello\n"
        "a_2,train,happy,1,neutral,24,hello\n"
        "b_1,valid,neutral,,,24,\n"
        "b_2,test,,,,24,\n"
    )
    listing, made = trees.build(CORPUS, root, tmp_path / "out")
    assert listing.manifest["split_by"] == "clips.csv" and [clip.split for clip in listing.clips] == [
        "train", "train", "valid", "test",
    ]  # fmt: skip
    angry = made["a_1"]
    np.testing.assert_allclose(angry["activation"][:, ACTIVE.index("angry")], 0.5)
    assert (angry["label"], angry["condition"], angry["sentence"]) == ("angry", "voice", "hello")
    heard = angry["emotion"] == CANONICAL.index("angry")
    assert heard.mean() > 0.9 and set(angry["intensity"][heard].tolist()) == {0.5}
    # A happy face over a neutral voice: the voice must not drive it.
    assert (made["a_2"]["condition"], made["a_2"]["voice_emotion"]) == ("schedule", "neutral")
    assert made["a_2"]["activation"][:, ACTIVE.index("happy")].min() == 1.0
    assert made["b_1"]["expression"] == "neutral" and not made["b_1"]["activation"].any()
    assert made["b_2"]["expression"] == "" and "label" not in made["b_2"]


def test_the_table_tells_the_voice_how_strong_it_is_where_face_and_voice_agree(tmp_path):
    root = write(tmp_path / "captures", ["a_1", "a_2", "b_1"])
    (root / "clips.csv").write_text(
        "id,split,emotion,intensity,voice_emotion,fps\n"
        "a_1,train,,0.7,happy,24\n"
        "a_2,train,sad,0.4,happy,24\n"
        "b_1,test,neutral,0.3,happy,24\n"
    )
    _, made = trees.build(CORPUS, root, tmp_path / "out")

    def heard(record):
        assert (record["emotion"] == CANONICAL.index("happy")).mean() > 0.9
        return record["intensity"][record["emotion"] == CANONICAL.index("happy")]

    np.testing.assert_allclose(heard(made["a_1"]), 0.7, atol=1e-3)
    assert np.isnan(heard(made["a_2"])).all() and np.isnan(heard(made["b_1"])).all()


def test_archives_with_rate_weights_and_a_moving_expression(tmp_path):
    rise = np.linspace(0, 1, F)[:, None]
    weights = np.random.default_rng(0).random((F, 3))
    root = write(
        tmp_path / "captures", ["a_1", "a_2", "a_3"], kind="npz", weights=weights, weight_names=["jawOpen", "x", "y"],
        activation=rise, emotions=["surprised"],
    )  # fmt: skip
    listing, made = trees.build(CORPUS, root, tmp_path / "out", fps="12")
    record = made["a_1"]
    assert record["fps"] == 12.0 and listing.manifest["rig_names"] == ["jawOpen", "x", "y"]
    np.testing.assert_allclose(record["rig"], weights[::2], atol=1e-3)
    np.testing.assert_allclose(record["activation"][:, ACTIVE.index("surprise")], rise[::2, 0], atol=1e-3)
    assert listing.manifest["split_by"].startswith("clip: the same speakers")


@pytest.mark.parametrize(
    "table, message",
    [
        ("id,emotion\na_1,angry!", "clips.csv: emotion of a_1: unknown emotion 'angry!'"),
        ("id,emotion,intensity\na_1,angry,3", "clips.csv: intensity of a_1, '3', must be a number from 0 to 1"),
        ("id,fps\na_1,fast", "clips.csv: fps of a_1, 'fast', must be"),
        ("id,split\na_1,dev", "split 'dev' of a_1; give train, valid, test"),
        ("id,split\na_1,train\na_2,", "a_2 has no split, though others have"),
        ("name\na_1", "id is needed"),
        ("id\na_1\na_1", "line 3: a_1 stands there twice"),
        ("id,template\na_1,nobody", "no template for a_1"),
    ],
)
def test_mistakes_in_the_table_are_named(tmp_path, table, message):
    root = write(tmp_path, ["a_1", "a_2"])
    (root / "clips.csv").write_text(table + "\n")
    with pytest.raises(UserError, match=message.replace("(", r"\(")):
        listed(root, capture_fps="24")


def test_rates_that_no_capture_has_are_named_where_they_stand(tmp_path):
    root = write(tmp_path / "captures", ["a_1", "a_2"])
    with pytest.raises(UserError, match="^--option capture_fps, 'film', must be a number from 1 to 1000"):
        listed(root, capture_fps="film")
    np.savez(root / "vertices" / "a_1.npz", vertices=np.zeros((F, 3 * V)), fps=0.0)
    with pytest.raises(UserError, match="a_1.npz: its fps, '0.0', must be"):
        listed(root, capture_fps="24")


def test_what_is_missing_is_named(tmp_path):
    root = write(tmp_path / "captures", ["a_1", "a_2"])
    with pytest.raises(UserError, match="how many frames per second"):
        listed(root)
    with pytest.raises(UserError, match="unit=inch: give m or cm or mm"):
        listed(root, unit="inch", capture_fps="24")
    with pytest.raises(UserError, match="m high; --option unit="):
        trees.build(CORPUS, root, tmp_path / "out", capture_fps="24", unit="mm")
    (root / "wav" / "a_2.wav").rename(root / "wav" / "a_3.wav")
    found = trees.reasons(listed(root, capture_fps="24"))
    assert found == {"no sound": {"a_2"}, "no motion": {"a_3"}}
    (root / "wav" / "a_1.wav").rename(root / "wav" / "a_1.WAV")
    assert trees.reasons(listed(root, capture_fps="24")) == found
    _, made = trees.build(CORPUS, root, tmp_path / "none", capture_fps="24", regions="none")
    assert FaceSpace.load(tmp_path / "none" / "face_space.npz").regions == {} and set(made) == {"a_1"}
    with pytest.raises(UserError, match="no captures: expected vertices/<clip>.npy"):
        listed(root / "wav")


def record(root, stems, frames=60, basis=None):
    """Recordings of a telephone: weights and sound; returns the weights."""
    rng = np.random.default_rng(7)
    names = ARKIT_NAMES if basis is None else basis.shape_names
    writer = BlendshapeBasis("any", np.zeros((1, 3)), np.zeros((len(names), 1, 3)), names)
    (root / "weights").mkdir(parents=True)
    weights = {}
    for number, stem in enumerate(stems):
        curves = np.clip(np.cumsum(rng.normal(0, 0.1, (frames, len(names))), axis=0), 0, 1)
        weights[stem] = np.round(curves, 5)
        write_live_link(root / "weights" / f"{stem}.csv", writer, weights[stem], 60.0)
        trees.write_sound(root / "wav" / f"{stem}.wav", frames / 60.0, seed=number)
    return weights


def test_a_telephones_recordings_move_the_mean_built_in_head(tmp_path):
    weights = record(tmp_path / "captures", ["me_1", "me_2", "me_3"])
    listing, made = trees.build(CORPUS, tmp_path / "captures", tmp_path / "out", fps="30")
    space = FaceSpace.load(tmp_path / "out" / "face_space.npz")
    assert space.topology == TOPOLOGY and space.template_names == ("built-in",) and len(space.regions["lips"])
    assert space.fps == 30.0 and listing.manifest["rig_names"] == list(ARKIT_NAMES)
    basis = BlendshapeBasis.known(make_head(0, HeadSpec(spread=0.0)).template)
    for name, found in made.items():
        expected = basis.posed(weights[name][::2])
        assert np.linalg.norm(true_vertices(found, space) - expected, axis=-1).max() <= TOLERANCE_M
        np.testing.assert_allclose(found["rig"], weights[name][::2], atol=1e-3)


def test_recordings_move_other_faces_through_their_own_blendshapes(tmp_path):
    root, template = tmp_path / "captures", trees.head(V)
    shapes = np.random.default_rng(3).normal(0, 0.01, (2, V, 3))
    basis = BlendshapeBasis("own", template, shapes, ("jawOpen", "mouthPucker"))
    weights = record(root, ["me_1", "me_2", "me_3"], basis=basis)
    trees.write_ply(root / "template.ply", template, FACES)
    trees.write_regions(root / "regions", V)
    with pytest.raises(UserError, match="weights move built-in heads only; for a face of 90 vertices"):
        listed(root)
    np.savez(tmp_path / "basis.npz", mean=template, shapes=shapes, names=np.array(basis.shape_names))
    _, made = trees.build(CORPUS, root, tmp_path / "out", fps="30", basis=str(tmp_path / "basis.npz"))
    space = FaceSpace.load(tmp_path / "out" / "face_space.npz")
    expected = template + np.tensordot(weights["me_2"][::2], shapes, 1)
    assert np.linalg.norm(true_vertices(made["me_2"], space) - expected, axis=-1).max() <= TOLERANCE_M


def test_a_take_without_a_face_is_left_out_and_named(tmp_path):
    root = tmp_path / "captures"
    record(root, ["me_1", "me_2", "me_3", "me_4"])
    take = root / "weights" / "me_4.csv"
    header, *rows = take.read_text().splitlines()
    take.write_text("\n".join([header, *(f"{row.split(',')[0]},0" for row in rows)]))
    listing, made = trees.build(CORPUS, root, tmp_path / "out", fps="30")
    assert sorted(made) == ["me_1", "me_2", "me_3"]
    (left,) = listing.skipped
    assert left.id == "me_4" and left.reason == UNREADABLE and "no face was seen" in left.detail
