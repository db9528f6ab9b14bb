import json
import pickle

import numpy as np
import pytest

from sedtalker_jax.errors import UserError
from sedtalker_jax.evaluation.face_files import animation_regions
from sedtalker_jax.evaluation.peer_report import evaluate_directories
from sedtalker_jax.face.mesh_files import read_regions

V = 24


@pytest.fixture
def files(tmp_path):
    rng = np.random.default_rng(0)
    template = rng.normal(0, 0.05, (V, 3))
    for folder in ("truth", "ours", "peer", "regions"):
        (tmp_path / folder).mkdir()
    for subject in ("F2", "M3", "F5"):
        for sentence in (37, 38):
            motion = template + np.cumsum(rng.normal(0, 0.001, (30, V, 3)), axis=0)
            name = f"{subject}_e{sentence}.npy"
            np.save(tmp_path / "truth" / name, motion.reshape(30, -1))
            np.save(tmp_path / "ours" / name, motion.reshape(30, -1) + rng.normal(0, 0.0005, (30, 3 * V)))
            np.save(tmp_path / "peer" / name, motion + rng.normal(0, 0.002, (30, V, 3)))
    (tmp_path / "regions" / "lve.txt").write_text("0, 1, 2, 3, 4, 5")
    (tmp_path / "regions" / "fdd.txt").write_text(", ".join(str(i) for i in range(10, 20)))
    with (tmp_path / "templates.pkl").open("wb") as stream:
        pickle.dump({name: template for name in ("F2", "M3", "F5")}, stream)
    return tmp_path


def test_from_directories_to_a_page(files):
    out = files / "scores"
    scores = evaluate_directories(
        [str(files / "ours"), f"rival={files / 'peer'}"],
        files / "truth",
        files / "regions",
        out,
        templates=files / "templates.pkl",
        lip_points=(0, 1),
        fps=25.0,
        num_resamples=200,
    )
    assert scores.table.systems == ["ours", "rival"]
    document = json.loads((out / "metrics.json").read_text())
    metric = document["animation"]["lip_vertex_error_rooted_mm"]["systems"]
    assert 0 < metric["ours"]["high"] < metric["rival"]["low"]
    assert document["differences"]["lip_vertex_error_rooted_mm"]["systems"]["rival"]["high"] < 0
    assert "upper_face_dynamics_deviation_mm2" in document["animation"]
    assert "emotional_vertex_error_mm2" not in document["animation"]  # these region files have no set for it
    assert document["info"]["fps"] == 25.0 and document["info"]["clips"] == 6
    assert {path.name for path in (out / "plots").iterdir()} == {"error_over_time.png", "heat_map.png", "lip_distance.png"}
    page = (out / "report.html").read_text()
    assert page.count("data:image/png") == 3 and "lips = lve, upper_face = fdd" in page


def test_without_templates_the_mesh_is_counted_from_the_files(files):
    scores = evaluate_directories([str(files / "peer")], files / "truth", files / "regions", fps=25.0, num_resamples=100)
    names = {row.metric for row in scores.table.rows}
    assert "mean_vertex_error_mm" in names and not names & {"upper_face_dynamics_deviation_mm2", "lip_distance_error_mm"}
    assert scores.lip_distance_m == {}


def test_names_of_systems_are_checked(files):
    arguments = (files / "truth", files / "regions")
    for wrong in ([f"a={files / 'ours'}", f"a={files / 'peer'}"], [f"truth={files / 'ours'}"], [f"={files / 'ours'}"]):
        with pytest.raises(UserError, match="name of its own"):
            evaluate_directories(wrong, *arguments)
    with pytest.raises(UserError, match="no directory of predictions"):
        evaluate_directories([], *arguments)


def test_regions_from_every_kind_of_file(files):
    masks = {"lips": np.array([1, 1, 2]), "forehead": np.array([5]), "eye_region": np.array([7, 6]), "none": np.array([], int)}
    with (files / "FLAME_masks.pkl").open("wb") as stream:
        pickle.dump(masks, stream)
    chosen = animation_regions(files / "FLAME_masks.pkl", V)
    assert chosen.lips.tolist() == [1, 2] and chosen.emotional.tolist() == chosen.upper_face.tolist() == [5, 6, 7]
    assert chosen.upper_lip is None
    assert "FLAME_masks.pkl (lips = lips, emotional = eye_region+forehead" in chosen.describe()
    regions = {"region_lips": [3], "region_upper_lip_middle": [0], "region_lower_lip_middle": [1]}
    np.savez(files / "face_space.npz", basis=np.eye(2), **regions)
    space = animation_regions(files / "face_space.npz", V)
    assert (space.lips.tolist(), space.upper_lip.tolist(), space.lower_lip.tolist()) == ([3], [0], [1])
    assert animation_regions(files / "face_space.npz", V, lip_points=(8, 9)).upper_lip.tolist() == [8]
    assert set(read_regions(files / "regions", V)) == {"lve", "fdd"}


def test_regions_that_do_not_fit_are_explained(files):
    with pytest.raises(UserError, match="outside a mesh of 4"):
        animation_regions(files / "regions", 4)
    with pytest.raises(UserError, match="no region chin; it has fdd, lve"):
        animation_regions(files / "regions", V, lips=["chin"])
    (files / "regions" / "lve.txt").rename(files / "regions" / "vocaset_lve.txt")
    assert "lips = vocaset_lve" in animation_regions(files / "regions", V).name
    (files / "regions" / "biwi_lve.txt").write_text("3")
    with pytest.raises(UserError, match="no region 'lips' or 'lve'; name one of biwi_lve"):
        animation_regions(files / "regions", V)
    (files / "regions" / "biwi_lve.txt").unlink()
    (files / "regions" / "vocaset_lve.txt").unlink()
    with pytest.raises(UserError, match="no region 'lips' or 'lve'; name one of fdd"):
        animation_regions(files / "regions", V)
    (files / "none").mkdir()
    with pytest.raises(UserError, match="holds no vertex lists"):
        animation_regions(files / "none", V)
    with pytest.raises(UserError, match="no such file"):
        animation_regions(files / "masks.pkl", V)
