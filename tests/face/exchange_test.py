"""Files for other programs, read back by their formats' own libraries: the motion in them is the motion that was written."""

import csv
import dataclasses

import numpy as np
import pytest

from sedtalker_jax.emotion import EmotionTrack
from sedtalker_jax.errors import UserError
from sedtalker_jax.face.blendshape_basis import BlendshapeBasis
from sedtalker_jax.face.gltf import write_gltf
from sedtalker_jax.face.live_link import read_live_link, write_live_link
from sedtalker_jax.face.morph_targets import MorphTargets
from sedtalker_jax.face.rig import ARKIT_NAMES
from sedtalker_jax.face.usd import write_usd

FACES = np.array([[0, 1, 2], [1, 3, 2], [2, 3, 4]], np.int32)
FPS = 25.0


def targets(frames=7, count=3, seed=0):
    rng = np.random.default_rng(seed)
    shapes = rng.normal(0, 0.01, (count, 5, 3)).astype(np.float32)
    shapes[:, 0] = 0.0  # a vertex that nothing moves
    names = tuple(f"shape{index}" for index in range(count))
    return MorphTargets(
        rng.normal(0, 0.1, (5, 3)).astype(np.float32), names, shapes, rng.uniform(0, 1, (frames, count)).astype(np.float32)
    )


def accessor(gltf, index):
    found = gltf.accessors[index]
    view = gltf.bufferViews[found.bufferView]
    dtype = {5126: np.float32, 5125: np.uint32}[found.componentType]
    width = {"SCALAR": 1, "VEC3": 3, "VEC4": 4}[found.type]
    array = np.frombuffer(gltf.binary_blob(), dtype, found.count * width, view.byteOffset)
    return array.reshape(found.count, width)


def test_gltf_holds_the_motion(tmp_path):
    import pygltflib

    made = targets()
    write_gltf(tmp_path / "face.glb", made, FACES, FPS)
    gltf = pygltflib.GLTF2().load(str(tmp_path / "face.glb"))
    (mesh,), (animation,) = gltf.meshes, gltf.animations
    (primitive,) = mesh.primitives
    assert mesh.extras["targetNames"] == list(made.names)
    np.testing.assert_array_equal(accessor(gltf, primitive.indices).ravel(), FACES.ravel())
    rest = accessor(gltf, primitive.attributes.POSITION)
    found = gltf.accessors[primitive.attributes.POSITION]
    np.testing.assert_array_equal(found.min, rest.min(0))
    shapes = np.stack([accessor(gltf, target["POSITION"]) for target in primitive.targets])
    (sampler,), (channel,) = animation.samplers, animation.channels
    assert (channel.target.node, channel.target.path, sampler.interpolation) == (0, "weights", "LINEAR")
    np.testing.assert_allclose(accessor(gltf, sampler.input).ravel(), np.arange(7) / FPS, rtol=1e-6)
    weights = accessor(gltf, sampler.output).reshape(7, 3)
    np.testing.assert_array_equal(rest + np.tensordot(weights, shapes, 1), made.vertices())
    normals = accessor(gltf, primitive.attributes.NORMAL)
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1.0, atol=1e-5)
    colours = accessor(gltf, primitive.attributes.COLOR_0)
    assert colours.min() >= 0 and colours.max() <= 1 and np.ptp(colours[:, :3]) > 0


def test_gltf_of_a_still_face_has_no_animation(tmp_path):
    import pygltflib

    made = targets(count=0)
    write_gltf(tmp_path / "still.glb", made, FACES, FPS)
    gltf = pygltflib.GLTF2().load(str(tmp_path / "still.glb"))
    assert not gltf.animations and not gltf.meshes[0].primitives[0].targets


@pytest.mark.parametrize("suffix", [".usd", ".usda", ".usdc"])
def test_usd_holds_the_motion_and_the_emotion(tmp_path, suffix):
    from pxr import Gf, Usd, UsdGeom, UsdSkel

    made, path = targets(), tmp_path / f"face{suffix}"
    path.write_bytes(b"what stood there before")
    times = np.linspace(0, 1, 12)
    track = EmotionTrack(("neutral", "happy"), np.stack([1 - times, times], 1), np.full(12, 0.5), 50.0, 0.01)
    write_usd(path, made, FACES, FPS, track)
    stage = Usd.Stage.Open(str(path))
    assert (stage.GetStartTimeCode(), stage.GetEndTimeCode(), stage.GetTimeCodesPerSecond()) == (0, 6, FPS)
    assert (UsdGeom.GetStageUpAxis(stage), UsdGeom.GetStageMetersPerUnit(stage)) == ("Y", 1.0)
    mesh = UsdGeom.Mesh.Get(stage, "/Face/Mesh")
    happy = mesh.GetPrim().GetAttribute("userProperties:emotion:happy")
    assert happy.Get(0.01 * FPS + 11 * FPS / 50) == pytest.approx(0.5)
    low, high = np.array(mesh.GetExtentAttr().Get())
    # Pixar's own skinning moves the points.
    assert UsdSkel.BakeSkinning(UsdSkel.Root.Get(stage, "/Face"), Gf.Interval(0, 6))
    for frame, expected in enumerate(made.vertices()):
        np.testing.assert_allclose(np.array(mesh.GetPointsAttr().Get(frame)), expected, atol=1e-6)
    assert (made.vertices() >= low - 1e-6).all() and (made.vertices() <= high + 1e-6).all()


def test_usd_takes_any_names_of_shapes(tmp_path):
    from pxr import Usd, UsdSkel

    made = dataclasses.replace(targets(), names=("head.jaw open", "head_jaw open", "1 Lächeln"))
    write_usd(tmp_path / "face.usda", made, FACES, FPS)
    stage = Usd.Stage.Open(str(tmp_path / "face.usda"))
    binding = UsdSkel.BindingAPI(stage.GetPrimAtPath("/Face/Mesh"))
    assert tuple(binding.GetBlendShapesAttr().Get()) == made.names
    assert len(set(binding.GetBlendShapeTargetsRel().GetTargets())) == 3


def test_usd_passes_pixars_checks(tmp_path):
    from pxr import Usd, UsdValidation

    write_usd(tmp_path / "face.usda", targets(), FACES, FPS)
    validators = UsdValidation.ValidationRegistry().GetOrLoadAllValidators()
    assert len(validators) > 10
    found = UsdValidation.ValidationContext(validators).Validate(Usd.Stage.Open(str(tmp_path / "face.usda")))
    assert [error.GetErrorAsString() for error in found] == []


def arkit_basis(names=ARKIT_NAMES):
    return BlendshapeBasis("toy", np.zeros((5, 3)), np.zeros((len(names), 5, 3)), tuple(names))


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_live_link_rows_carry_weights_under_their_names(tmp_path):
    weights = np.random.default_rng(0).uniform(0, 1, (70, 52))
    write_live_link(tmp_path / "face.csv", arkit_basis(), weights, 30.0)
    rows = rows_of(tmp_path / "face.csv")
    assert len(rows) == 70 and len(rows[0]) == 63 and {row["BlendShapeCount"] for row in rows} == {"61"}
    for index, name in enumerate(ARKIT_NAMES):
        column = [float(row[name[0].upper() + name[1:]]) for row in rows]
        np.testing.assert_allclose(column, weights[:, index], atol=1e-5)
    # As the app orders them: right before left here, and the angles last.
    header = list(rows[0])
    assert header[16:20] == ["JawForward", "JawRight", "JawLeft", "JawOpen"] and header[-1] == "RightEyeRoll"
    assert [rows[frame]["Timecode"] for frame in (0, 1, 29, 30, 69)] == [
        "00:00:00:00.000", "00:00:00:01.000", "00:00:00:29.000", "00:00:01:00.000", "00:00:02:09.000",
    ]  # fmt: skip


def test_live_link_time_codes_of_a_fractional_rate_do_not_drift(tmp_path):
    rate = 30_000 / 1_001
    write_live_link(tmp_path / "face.csv", arkit_basis(("jawOpen", "own")), np.ones((2_000, 2)), rate)
    rows = rows_of(tmp_path / "face.csv")
    for frame in (0, 1, 300, 1_999):
        hours, minutes, seconds, frames = rows[frame]["Timecode"].split(":")
        found = 3600 * int(hours) + 60 * int(minutes) + int(seconds) + float(frames) / 30
        assert found == pytest.approx(frame / rate, abs=1e-4)
    # A shape that ARKit lacks is left out, one that the basis lacks is zero.
    assert {row["JawOpen"] for row in rows} == {"1.00000"} and {row["MouthClose"] for row in rows} == {"0.00000"}
    assert not {"own", "Own"} & set(rows[0])


def test_live_link_needs_a_name_of_arkits(tmp_path):
    with pytest.raises(UserError, match="none of its 1 shapes has a name of ARKit's"):
        write_live_link(tmp_path / "face.csv", arkit_basis(("smile",)), np.zeros((3, 1)), 30.0)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("rate", [24.0, 25.0, 30.0, 60.0])
def test_live_link_recordings_are_read_as_they_were_written(tmp_path, rate):
    weights = np.random.default_rng(1).uniform(0, 1, (150, 52))
    write_live_link(tmp_path / "face.csv", arkit_basis(), weights, rate)
    found, fps = read_live_link(tmp_path / "face.csv")
    assert fps == rate
    np.testing.assert_allclose(found, weights, atol=1e-5)


def test_live_link_recordings_are_made_even(tmp_path):
    """As the app leaves them: other cases and more columns, frames that are late or skipped or have no face, midnight."""
    rows = ["TIMECODE,blendShapeCount,MouthClose,jawOpen,HeadYaw"]
    rows += ["23:59:59:58.000,61,0.5,0.0,1", "23:59:59:59.000,61,0.5,0.1,1", "00:00:00:00.000,61,0.5,0.2,1"]
    rows += [
        "00:00:00:01.000,0,,,",
        "00:00:00:02.500,61,0.5,0.45,1",
        "00:00:00:02.500,61,0.5,0.9,1",
        "00:00:00:04.000,61,0.5,1.3,1",
    ]
    (tmp_path / "take.csv").write_text("\ufeff" + "\n".join(rows) + "\n", encoding="utf-8")
    weights, fps = read_live_link(tmp_path / "take.csv")
    assert fps == 60.0 and weights.shape == (7, 52)
    jaw = weights[:, ARKIT_NAMES.index("jawOpen")]
    # Frames 3 and 5 lie between rows, and no weight is above one.
    np.testing.assert_allclose(jaw, [0.0, 0.1, 0.2, 0.3, 0.4, 0.45 + 0.85 / 3, 1.0], atol=1e-9)
    np.testing.assert_allclose(weights[:, ARKIT_NAMES.index("mouthClose")], 0.5)
    assert np.count_nonzero(weights.any(axis=0)) == 2


def test_live_link_recordings_begin_and_end_with_the_sound_whoever_is_seen(tmp_path):
    """The app records before it sees a face; a motion that began with the first face would run ahead of the sound."""
    rows = [f"10:00:01:{frame:02d}.250,0,{',' * 60}" for frame in range(20, 26)]
    rows += [f"10:00:01:{frame:02d}.250,61" + ",0.5" * 61 for frame in range(26, 60)]
    rows += ["10:00:02:00.250,0", "10:00:02:01.250,0", "10:00:0"]
    header = ["Timecode,BlendShapeCount", *ARKIT_NAMES, *(f"Angle{index}" for index in range(9))]
    (tmp_path / "take.csv").write_text("\n".join([",".join(header), *rows]))
    weights, fps = read_live_link(tmp_path / "take.csv")
    assert fps == 60.0 and len(weights) == 42
    np.testing.assert_allclose(weights, 0.5)


@pytest.mark.parametrize(
    "text, message",
    [
        (None, "no such file"),
        ("a,b\n1,2\n", "needs Timecode and columns such as JawOpen"),
        ("", "needs Timecode"),
        ("Timecode,JawOpen\n", "no face was seen"),
        ("Timecode,JawOpen\n00:00:00:00,much\n", "line 2: weights must be numbers"),
        ("Timecode,JawOpen\n00:00:00:00,0\n00:01,0\n", "line 3: weights must be numbers and Timecode HH:MM:SS:FF"),
        ("Timecode,JawOpen\n00:00:00:00,nan\n", "line 2: weights must be numbers"),
    ],
)
def test_what_is_no_recording_of_live_link_says_so(tmp_path, text, message):
    if text is not None:
        (tmp_path / "take.csv").write_text(text)
    with pytest.raises(UserError, match=f"take.csv.*{message}"):
        read_live_link(tmp_path / "take.csv")
