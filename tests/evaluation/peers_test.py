import pickle

import numpy as np
import pytest

from sedtalker_jax.errors import UserError
from sedtalker_jax.evaluation import animation_metrics as am
from sedtalker_jax.evaluation import peers
from sedtalker_jax.evaluation.animation_evaluation import AnimationRegions
from sedtalker_jax.face.blendshape_basis import BlendshapeBasis
from sedtalker_jax.face.mesh_files import read_templates

V = 20
REGIONS = AnimationRegions("toy", np.arange(0, 8), np.arange(8, 14), np.arange(8, 16), np.array([0]), np.array([1]), V)
SUBJECTS = ("FaceTalk_170809_00138_TA", "FaceTalk_170731_00024_TA")
TRAINING = ("FaceTalk_170728_03272_TA", "FaceTalk_170904_00128_TA")


@pytest.fixture
def vocaset(tmp_path):
    """References at 60 fps, flat as VOCASET's; predictions at 30 fps, one per training subject; a pickle of templates."""
    rng = np.random.default_rng(0)
    templates = {subject: rng.normal(0, 0.05, (V, 3)) for subject in (*SUBJECTS, *TRAINING)}
    for folder in ("truth", "ours", "theirs"):
        (tmp_path / folder).mkdir()
    clips = {}
    for subject in SUBJECTS:
        for sentence in (21, 22):
            name = f"{subject}_sentence{sentence}"
            motion = templates[subject] + np.cumsum(rng.normal(0, 0.001, (80, V, 3)), axis=0)
            np.save(tmp_path / "truth" / f"{name}.npy", motion.reshape(80, -1).astype(np.float32))
            clips[name] = motion[::2]
            for system, noise in (("ours", 0.001), ("theirs", 0.003)):
                for condition in TRAINING:
                    prediction = clips[name] + rng.normal(0, noise, clips[name].shape)
                    shaped = prediction.reshape(40, -1) if system == "ours" else prediction
                    np.save(tmp_path / system / f"{name}_condition_{condition}.npy", shaped.astype(np.float32))
    with (tmp_path / "templates.pkl").open("wb") as stream:
        pickle.dump(templates, stream, protocol=2)
    return tmp_path, clips, templates


def score(root, **options):
    systems = options.pop("systems", ("ours", "theirs"))
    predictions = {name: root / name for name in systems}
    options = {"reference_fps": 60.0, "num_resamples": 200} | options
    return peers.score_directories(predictions, root / "truth", REGIONS, **options)


def test_files_of_peers_are_scored_as_their_arrays_would_be(vocaset):
    root, clips, templates = vocaset
    scores = score(root, templates=read_templates(root / "templates.pkl"))
    assert scores.clips == sorted(clips)
    for system in ("ours", "theirs"):
        expected, deviations = [], []
        for clip in scores.clips:
            target = clips[clip].astype(np.float32)
            files = sorted((root / system).glob(f"{clip}_condition_*.npy"))
            assert len(files) == 2
            motions = [np.load(file).reshape(40, V, 3) for file in files]
            expected.append(np.mean([am.lip_vertex_error_rooted_mm(m, target, REGIONS.lips) for m in motions]))
            template = templates[peers.subject_of(clip)]
            deviations.append(
                np.mean([am.upper_face_dynamics_deviation(m, target, template, REGIONS.upper_face) for m in motions])
            )
        np.testing.assert_allclose(scores.per_clip["lip_vertex_error_rooted_mm"][system], expected, rtol=1e-5)
        found = scores.per_clip["upper_face_dynamics_deviation_mm2"][system]
        np.testing.assert_allclose(found, 1e6 * np.array(deviations), rtol=1e-4, atol=1e-3)
    (row,) = [row for row in scores.differences.rows if row.metric == "lip_vertex_error_rooted_mm"]
    assert row.values["theirs"].high < 0  # ours is better, by an interval that excludes zero
    assert "up to 2 conditions per clip" in scores.table.note
    assert scores.vertex_error_mm["theirs"].mean() > 2 * scores.vertex_error_mm["ours"].mean()
    assert set(scores.lip_distance_m) == {"truth", "ours", "theirs"} and len(scores.error_curves_m2["ours"]) == 40
    assert scores.vertex_error_mm["ours"].mean() == pytest.approx(scores.per_clip["mean_vertex_error_mm"]["ours"].mean())


def test_forgotten_frame_rates_are_noticed(vocaset):
    root, _, _ = vocaset
    with pytest.raises(UserError, match="40 frames against 80 .* references seem to have 2 times the frame rate"):
        score(root, reference_fps=None)
    with pytest.raises(UserError, match="50 fps is no whole multiple of 30"):
        score(root, reference_fps=50.0)


def test_what_is_missing_is_said(vocaset):
    root, clips, _ = vocaset
    for file in (root / "theirs").glob(f"{sorted(clips)[0]}_*"):
        file.unlink()
    np.save(root / "ours" / "FaceTalk_1_TA_sentence01.npy", np.zeros((40, V * 3)))
    note = score(root).table.note
    assert "1 of 4 references have no prediction of every system" in note
    assert "ours: 1 predictions have no reference (FaceTalk_1_TA_sentence01 ...)" in note


def test_blendshape_weights_need_a_named_basis(vocaset):
    root, clips, _ = vocaset
    rng = np.random.default_rng(1)
    mean, shapes = rng.normal(0, 0.05, (V, 3)), rng.normal(0, 0.01, (52, V, 3))
    for folder in ("weights", "weights_truth"):
        (root / folder).mkdir()
    weights = rng.uniform(0, 1, (40, 52))
    np.save(root / "weights" / "F1_e01.npy", weights)
    np.save(root / "weights_truth" / "F1_e01.npy", mean + np.einsum("fw,wvc->fvc", weights, shapes))
    np.savez(root / "EmoTalk.npz", meanshape=mean.reshape(-1), blendshape=shapes.reshape(52, -1))
    arguments = ({"emotalk": root / "weights"}, root / "weights_truth", REGIONS)
    with pytest.raises(UserError, match="give a blendshape basis"):
        peers.score_directories(*arguments)
    scores = peers.score_directories(*arguments, basis=BlendshapeBasis.load(root / "EmoTalk.npz"))
    assert scores.per_clip["mean_vertex_error_mm"]["emotalk"] == pytest.approx(0.0, abs=1e-4)
    assert "through the basis EmoTalk.npz (52 shapes)" in scores.table.note


@pytest.mark.parametrize(
    "clip, subject",
    [
        ("FaceTalk_170809_00138_TA_sentence21", "FaceTalk_170809_00138_TA"),
        ("FaceTalk_170809_00138_TA_sentence21_Happy_2", "FaceTalk_170809_00138_TA"),
        ("F2_e37", "F2"),
        ("alone", "alone"),
    ],
)
def test_subjects_in_names(clip, subject):
    assert peers.subject_of(clip) == subject
    assert peers.subject_of("a_b_take", {"a": 0, "a_b": 0}) == "a_b"


@pytest.mark.parametrize(
    "array, message",
    [
        (np.zeros((40, 7)), r"shape \[40, 7\] is no motion of 20 vertices; give a blendshape basis"),
        (np.zeros((0, V * 3)), "is no motion of 20 vertices"),
        (np.full((40, V * 3), np.nan), "not finite"),
        (np.zeros((11, V * 3)), "11 frames against 40"),
        (np.array([{"a": 1}], dtype=object), "not a .npy file of numbers"),
    ],
)
def test_bad_files_are_explained(vocaset, array, message):
    root, clips, _ = vocaset
    name = sorted((root / "ours").iterdir())[0]
    np.save(name, array, allow_pickle=True)
    with pytest.raises(UserError, match=message) as caught:
        score(root)
    assert name.name in str(caught.value) and "\n" not in str(caught.value)


def test_shapes_with_a_batch_axis_are_understood(vocaset):
    root, _, _ = vocaset
    before = score(root, systems=("ours",)).per_clip["mean_vertex_error_mm"]["ours"]
    for file in (root / "ours").iterdir():
        array = np.load(file)
        np.save(file, array[None] if "03272" in file.name else array.reshape(1, 40, V, 3))
    np.testing.assert_allclose(score(root, systems=("ours",)).per_clip["mean_vertex_error_mm"]["ours"], before)


def test_directories_are_checked(vocaset):
    root, _, _ = vocaset
    (root / "empty").mkdir()
    (root / "other").mkdir()
    np.save(root / "other" / "somebody_else.npy", np.zeros((40, V * 3)))
    with pytest.raises(UserError, match="no such directory"):
        score(root, systems=("nowhere",))
    with pytest.raises(UserError, match="neither .npy files nor folders"):
        score(root, systems=("empty",))
    with pytest.raises(UserError, match="no clip in common .*'somebody_else'"):
        score(root, systems=("other",))
    with pytest.raises(UserError, match="no template of subject 'FaceTalk_170731_00024_TA'"):
        score(root, templates={"a": np.zeros((V, 3)), "b": np.zeros((V, 3))})


def test_mesh_sequences(tmp_path):
    rng = np.random.default_rng(2)
    faces = [(i, i + 1, i + 2) for i in range(V - 2)]
    # Enough frames that their numbers, without leading zeros, are not in the order of their names.
    motion = rng.normal(0, 0.05, (12, V, 3))
    (tmp_path / "meshes" / "F1_e01").mkdir(parents=True)
    (tmp_path / "truth").mkdir()
    for index, vertices in enumerate(motion):
        lines = ["v {:.8f} {:.8f} {:.8f}".format(*vertex) for vertex in vertices]
        lines += ["f {} {} {}".format(*(i + 1 for i in face)) for face in faces]
        (tmp_path / "meshes" / "F1_e01" / f"{index}.obj").write_text("\n".join(lines) + "\n")
    np.save(tmp_path / "truth" / "F1_e01.npy", motion)
    scores = peers.score_directories({"meshes": tmp_path / "meshes"}, tmp_path / "truth", REGIONS)
    assert scores.per_clip["mean_vertex_error_mm"]["meshes"] == pytest.approx(0.0, abs=1e-3)
    other = tmp_path / "meshes" / "F1_e01" / "2.obj"
    other.write_text("\n".join([*other.read_text().splitlines(), "v 0 0 0", f"f 1 2 {V + 1}"]) + "\n")
    with pytest.raises(UserError, match="2.obj: has another number of vertices than"):
        peers.score_directories({"meshes": tmp_path / "meshes"}, tmp_path / "truth", REGIONS)
