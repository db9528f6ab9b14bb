import pickle
import sys
import types

import numpy as np
import pytest
from scipy import sparse

from sedtalker_jax.errors import UserError
from sedtalker_jax.face.array_pickle import load_pickled_arrays
from sedtalker_jax.face.mesh_files import UPPER_FACE_REGIONS, join_regions, read_templates, read_vertex_list


@pytest.mark.parametrize("separator", [",", ", ", "\n", " "])
def test_vertex_lists(tmp_path, separator):
    path = tmp_path / "lve.txt"
    path.write_text(separator.join(str(i) for i in (7, 3, 3, 11)))
    np.testing.assert_array_equal(read_vertex_list(path, 12), [3, 7, 11])
    with pytest.raises(UserError, match="lve.txt.*outside a mesh of 11"):
        read_vertex_list(path, 11)
    path.write_text("3, lips")
    with pytest.raises(UserError, match="not a list of vertex indices"):
        read_vertex_list(path)
    path.write_text("")
    with pytest.raises(UserError, match="holds no whole-number"):
        read_vertex_list(path)
    np.save(tmp_path / "lips.npy", np.array([5, 2]))
    np.testing.assert_array_equal(read_vertex_list(tmp_path / "lips.npy"), [2, 5])
    (tmp_path / "lips.npy").write_bytes(b"")
    with pytest.raises(UserError, match="lips.npy: not a list of vertex indices"):
        read_vertex_list(tmp_path / "lips.npy")
    with pytest.raises(UserError, match="no such file"):
        read_vertex_list(tmp_path / "none.txt")


@pytest.mark.parametrize("name, count", [("vocaset_lve.txt", 428), ("vocaset_fdd.txt", 1501), ("vocaset_neck.txt", 368)])
def test_published_region_files(samples, name, count):
    assert len(read_vertex_list(samples / "regions" / name, 5023)) == count


class _Evil:
    def __reduce__(self):
        return (print, ("executed",))


def test_pickles_are_read_without_running_them(tmp_path, capsys):
    path = tmp_path / "templates.pkl"
    path.write_bytes(pickle.dumps({"a": _Evil()}))
    with pytest.raises(UserError, match="templates.pkl: not a pickle of arrays .*print"):
        read_templates(path)
    assert "executed" not in capsys.readouterr().out
    path.write_bytes(pickle.dumps({"F1": np.arange(6.0)}))
    np.testing.assert_array_equal(read_templates(path)["F1"], np.arange(6.0).reshape(2, 3))
    path.write_bytes(b"\x80\x02nonsense")
    with pytest.raises(UserError, match="not a pickle of arrays"):
        read_templates(path)


@pytest.mark.filterwarnings("ignore:Please import `csc_matrix`")
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_pickles_of_flame_become_arrays(tmp_path, monkeypatch, protocol):
    """FLAME's files hold chumpy arrays and scipy matrices of modules that are gone."""

    def kind(module, name, parts):
        made = type(name, (), {"__module__": module, "__getstate__": lambda self: parts})
        for parent in (module.rpartition(".")[0], module):
            monkeypatch.setitem(sys.modules, parent, sys.modules.get(parent) or types.ModuleType(parent))
        monkeypatch.setattr(sys.modules[module], name, made, raising=False)
        return made()

    values = np.arange(24.0).reshape(4, 3, 2)
    regressor = np.array([[0.0, 0.5, 0.5, 0.0], [1.0, 0.0, 0.0, 0.0]])
    packed = sparse.csc_matrix(regressor)
    state = dict(_shape=packed.shape, data=packed.data, indices=packed.indices, indptr=packed.indptr, maxprint=50)
    array = kind("chumpy.ch", "Ch", {"x": values, "_dirty_vars": set(), "_itr": None})
    content = {
        "shapedirs": array,
        "chosen": kind("chumpy.reordering", "Select", {"a": array, "idxs": np.array([5, 0]), "preferred_shape": (2, 1)}),
        "J_regressor": kind("scipy.sparse.csc", "csc_matrix", state),
        "modern": packed,
        "f": np.arange(6, dtype=np.uint32).reshape(2, 3),
        "bs_style": "lbs",
    }
    path = tmp_path / "generic_model.pkl"
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    with monkeypatch.context() as nothing_to_import:
        for module in ("chumpy", "chumpy.ch", "chumpy.reordering", "scipy.sparse.csc"):
            nothing_to_import.delitem(sys.modules, module, raising=False)
        loaded = load_pickled_arrays(path)
    np.testing.assert_array_equal(loaded["shapedirs"], values)
    np.testing.assert_array_equal(loaded["chosen"], [[5.0], [0.0]])
    np.testing.assert_array_equal(loaded["J_regressor"], regressor)
    np.testing.assert_array_equal(loaded["modern"], regressor)
    np.testing.assert_array_equal(loaded["f"], content["f"])


@pytest.mark.parametrize(
    "attack",
    [
        b"cos\nsystem\n(S'echo executed'\ntR.",
        b"cbuiltins\neval\n(S'1+1'\ntR.",
        b"c_codecs\nencode\n(Vabc\nVzlib\ntR.",
        b"ccopy_reg\n_reconstructor\n(cnumpy\nndarray\ncbuiltins\nobject\nNtR.",
    ],
)
def test_pickles_cannot_call_out(tmp_path, attack, capfd):
    path = tmp_path / "masks.pkl"
    path.write_bytes(attack)
    with pytest.raises(UserError, match="masks.pkl: not a pickle of arrays"):
        load_pickled_arrays(path)
    assert "executed" not in capfd.readouterr().out


def test_a_pickle_of_a_list_is_no_dictionary(tmp_path):
    path = tmp_path / "BIWI_lip.pkl"
    path.write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(UserError, match="a dictionary of arrays is expected, not a list"):
        load_pickled_arrays(path)


def test_regions_are_joined_by_the_first_names_that_a_file_has():
    masks = {"forehead": np.array([1, 2]), "eye_region": np.array([2, 5]), "left_eye_region": np.array([5])}
    name, vertices = join_regions(masks, UPPER_FACE_REGIONS)
    assert name == "forehead+eye_region" and vertices.tolist() == [1, 2, 5]
    assert join_regions({"nose": np.array([1])}, UPPER_FACE_REGIONS) is None
    assert join_regions({"vocaset_fdd": np.array([3])}, UPPER_FACE_REGIONS)[0] == "vocaset_fdd"
