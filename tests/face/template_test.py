"""Templates on disk, and what is said when one does not fit."""

import numpy as np
import pytest

from sedtalker_jax.errors import UserError
from sedtalker_jax.face.chart import TOPOLOGY
from sedtalker_jax.face.head import make_head
from sedtalker_jax.face.template import FaceTemplate, check_topology, load_template, mismatch, save_template

TEMPLATE = make_head(2).template


@pytest.mark.parametrize("suffix", [".ply", ".obj", ".npz", ".npy"])
def test_round_trip(tmp_path, suffix):
    path = tmp_path / f"face{suffix}"
    save_template(path, TEMPLATE)
    back = load_template(path)
    np.testing.assert_allclose(back.vertices, TEMPLATE.vertices, atol=1e-9)
    np.testing.assert_array_equal(back.faces, TEMPLATE.faces)
    assert back.topology == TOPOLOGY
    np.testing.assert_array_equal(back.regions["lips"], TEMPLATE.regions["lips"])
    assert back.name == ("head-2" if suffix == ".npz" else "face")
    assert [p.name for p in tmp_path.iterdir()] == [path.name], "no temporary file is left"


def test_foreign_mesh_keeps_its_vertex_order_through_obj(tmp_path):
    path = tmp_path / "quad.obj"
    path.write_text("# c\nv 0 0 0\nv 0.1 0 0\nv 0.1 0.1 0\nv 0 0.1 0\nvt 0 0\nf 1/1 2/1 3/1 4/1\nf -4 -3 -2\n")
    mesh = load_template(path)
    np.testing.assert_array_equal(mesh.faces, [[0, 1, 2], [0, 2, 3], [0, 1, 2]])
    assert mesh.topology == "mesh-4" and not mesh.regions


def ply(vertices, faces, texcoords=False):
    corners = lambda face: f"{len(face)} {' '.join(map(str, face))}"  # noqa: E731
    # Each face has texture coordinates of its own, so that every edge is a seam.
    seams = [f" {2 * len(face)} {' '.join(f'{(i + k) / 50}' for k in range(2 * len(face)))}" for i, face in enumerate(faces)]
    return "\n".join([
        "ply", "format ascii 1.0", f"element vertex {len(vertices)}", *(f"property float {axis}" for axis in "xyz"),
        f"element face {len(faces)}", "property list uchar int vertex_indices",
        *(["property list uchar float texcoord"] if texcoords else []), "end_header",
        *(" ".join(map(str, vertex)) for vertex in vertices),
        *(corners(face) + (seam if texcoords else "") for face, seam in zip(faces, seams, strict=True)), "",
    ])  # fmt: skip


def test_a_ply_with_texture_coordinates_keeps_its_vertices(tmp_path):
    vertices = [(0, 0, 0), (0.1, 0, 0), (0.1, 0.1, 0), (0, 0.1, 0)]
    faces = [(0, 1, 2), (0, 2, 3)]
    plain, textured = (
        load_template(write(tmp_path / f"{name}.ply", ply(vertices, faces, name == "textured")))
        for name in ("plain", "textured")
    )
    np.testing.assert_allclose(textured.vertices, vertices, atol=1e-7)
    np.testing.assert_array_equal(textured.faces, faces)
    np.testing.assert_array_equal(plain.faces, faces)


def test_polygons_become_the_same_triangles_in_every_pose_and_file(tmp_path):
    found = []
    for name, far in (("one", (0.3, 0.3, 0)), ("other", (0.06, 0.06, 0.02))):
        vertices = [(0, 0, 0), (0.1, 0, 0), far, (0, 0.1, 0), (-0.1, 0.05, 0)]
        faces = [(0, 1, 2, 3), (0, 3, 4)]
        found.append(load_template(write(tmp_path / f"{name}.ply", ply(vertices, faces))))
        lines = [f"v {x} {y} {z}" for x, y, z in vertices] + [f"f {' '.join(str(i + 1) for i in face)}" for face in faces]
        found.append(load_template(write(tmp_path / f"{name}.obj", "\n".join(lines))))
    for mesh in found:
        np.testing.assert_array_equal(mesh.faces, [[0, 1, 2], [0, 2, 3], [0, 3, 4]])
        check_topology(mesh, "mesh-5", 5, found[0].faces)


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def bad_files(d):
    np.save(d / "flat.npy", np.zeros(30))
    np.save(d / "nan.npy", np.full((10, 3), np.nan))
    np.save(d / "millimetres.npy", TEMPLATE.vertices * 1000)
    np.savez(d / "other.npz", points=np.zeros((4, 3)))
    np.savez(d / "wrong.npz", vertices=np.random.rand(10, 3), topology=np.array(TOPOLOGY))
    np.save(d / "renamed.npy", TEMPLATE.vertices)
    (d / "renamed.npy").rename(d / "renamed.npz")
    np.savez(d / "objects.npz", vertices=TEMPLATE.vertices.astype(object))
    np.savez(d / "quads.npz", vertices=TEMPLATE.vertices, faces=np.zeros((3, 4), np.int32))
    np.savez(d / "region.npz", vertices=TEMPLATE.vertices, region_lips=np.array([TEMPLATE.num_vertices]))
    np.savez(d / "damaged.npz", vertices=TEMPLATE.vertices)
    damaged = bytearray((d / "damaged.npz").read_bytes())
    damaged[5_000:5_100] = bytes(100)
    write(d / "damaged.npz", bytes(damaged))
    (d / "directory.ply").mkdir()
    return {
        d / "missing.ply": "does not exist",
        d / "directory.ply": "directory",
        write(d / "face.stl", "x"): "unknown suffix",
        write(d / "text.npy", "hello"): "NumPy",
        write(d / "text.ply", "hello"): "text.ply",
        write(d / "text.obj", "hello"): "no vertices",
        write(d / "broken.obj", "v 0 0 zero"): "line 1",
        write(d / "empty.ply", ""): "empty.ply",
        d / "flat.npy": "[V, 3]",
        d / "nan.npy": "not finite",
        d / "millimetres.npy": "metres",
        d / "other.npz": "'vertices'",
        d / "wrong.npz": "10 vertices",
        d / "renamed.npz": "not an .npz file",
        d / "objects.npz": "not an .npz file",
        d / "damaged.npz": "not an .npz file",
        d / "quads.npz": "int32 [3, 4] are no triangles",
        d / "region.npz": "region 'lips'",
    }


def test_bad_files_give_one_clear_line(tmp_path, capfd):
    for path, expected in bad_files(tmp_path).items():
        with pytest.raises(UserError) as caught:
            load_template(path)
        message = str(caught.value)
        assert expected in message and path.name in message and "\n" not in message, message
    assert capfd.readouterr() == ("", "")


def test_save_refuses_without_touching_what_is_there(tmp_path):
    with pytest.raises(UserError, match="unknown suffix"):
        save_template(tmp_path / "face.txt", TEMPLATE)
    blocked = write(tmp_path / "file", "x")
    with pytest.raises(UserError, match="can't be written"):
        save_template(blocked / "face.npz", TEMPLATE)
    assert blocked.read_text() == "x"


def test_mismatch_says_why():
    assert mismatch(TEMPLATE, TOPOLOGY, TEMPLATE.num_vertices, TEMPLATE.faces) is None
    flame = FaceTemplate("flame_sample", "flame", np.random.rand(5023, 3), np.array([[0, 1, 2]]))
    reason = mismatch(flame, TOPOLOGY, TEMPLATE.num_vertices)
    assert "5023" in reason and str(TEMPLATE.num_vertices) in reason and "flame" in reason
    turned = FaceTemplate("turned", "mesh", TEMPLATE.vertices, TEMPLATE.faces[:, ::-1])
    with pytest.raises(UserError, match="join them differently"):
        check_topology(turned, TOPOLOGY, TEMPLATE.num_vertices, TEMPLATE.faces)


def test_published_flame_meshes(samples):
    for path in sorted((samples / "faces").glob("**/*.ply"))[:3]:
        mesh = load_template(path)
        assert mesh.topology == "flame" and mesh.num_vertices == 5023 and len(mesh.faces) == 9976
        assert "flame" in mismatch(mesh, TOPOLOGY, TEMPLATE.num_vertices)
