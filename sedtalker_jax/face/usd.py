"""Moving faces as OpenUSD (.usd, .usda, .usdc): a mesh with UsdSkel blend shapes, their weights and the emotion over time.

Maya, Houdini, Blender, Unreal and Omniverse read it. Written by usd-core, Pixar's own library.
"""

# pxr builds its modules when they are imported: no checker sees what they hold.
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from sedtalker_jax.axes import TrianglesArray
from sedtalker_jax.emotion import EmotionTrack
from sedtalker_jax.emotion.formats import replace_when_complete
from sedtalker_jax.face.colours import linear_colours
from sedtalker_jax.face.morph_targets import MorphTargets
from sedtalker_jax.face.render import ROUGHNESS, default_colours

USD_SUFFIXES = (".usd", ".usda", ".usdc")
ROOT = "/Face"


def write_usd(
    path: str | os.PathLike, targets: MorphTargets, faces: TrianglesArray, fps: float, track: EmotionTrack | None = None
) -> None:
    """Writes a moving face, whole or not at all. Metres, y up, the face looks along z; time code f is frame f.

    /Face/Mesh has the blend shapes, /Face/Skeleton one joint, which programs that skin want, and /Face/Skeleton/Animation
    the weights. The mesh carries the emotion as `userProperties:emotion:<label>` (probability times intensity).

    Args:
      targets: the motion.
      faces: triangles.
      fps: frames per second.
      track: what the face feels; None leaves it out.

    Raises:
      UserError: the place can't be written.
    """
    from pxr import Gf, Sdf, Usd, UsdGeom, UsdSkel, Vt

    with replace_when_complete(path) as temporary:
        # The library opens no file that is there and empty.
        temporary.unlink()
        stage = Usd.Stage.CreateNew(str(temporary))
        UsdGeom.SetStageUpAxis(stage, UsdGeom.Tokens.y)
        UsdGeom.SetStageMetersPerUnit(stage, 1.0)
        for setting in (stage.SetTimeCodesPerSecond, stage.SetFramesPerSecond):
            setting(fps)
        stage.SetStartTimeCode(0)
        stage.SetEndTimeCode(len(targets.weights) - 1)
        root = UsdSkel.Root.Define(stage, ROOT)
        stage.SetDefaultPrim(root.GetPrim())

        def points(array: np.ndarray) -> Vt.Vec3fArray:
            return Vt.Vec3fArray.FromNumpy(np.ascontiguousarray(array, np.float32))

        mesh = UsdGeom.Mesh.Define(stage, f"{ROOT}/Mesh")
        mesh.CreatePointsAttr(points(targets.rest))
        mesh.CreateFaceVertexCountsAttr(Vt.IntArray.FromNumpy(np.full(len(faces), 3, np.int32)))
        mesh.CreateFaceVertexIndicesAttr(Vt.IntArray.FromNumpy(np.asarray(faces, np.int32).ravel()))
        mesh.CreateSubdivisionSchemeAttr(UsdGeom.Tokens.none)
        reached = np.abs(targets.weights).max(axis=0, initial=0.0)
        spread = (np.abs(targets.shapes) * reached[:, None, None]).sum(axis=0)
        mesh.CreateExtentAttr(points(np.stack([(targets.rest - spread).min(0), (targets.rest + spread).max(0)])))
        colours = points(linear_colours(default_colours(len(targets.rest), faces)))
        mesh.CreateDisplayColorPrimvar(UsdGeom.Tokens.vertex).Set(colours)

        _paint(stage, mesh)

        skeleton = UsdSkel.Skeleton.Define(stage, f"{ROOT}/Skeleton")
        joints, still = Vt.TokenArray(["head"]), Vt.Matrix4dArray([Gf.Matrix4d(1.0)])
        skeleton.CreateJointsAttr(joints)
        skeleton.CreateBindTransformsAttr(still)
        skeleton.CreateRestTransformsAttr(still)
        animation = UsdSkel.Animation.Define(stage, f"{ROOT}/Skeleton/Animation")
        animation.CreateJointsAttr(joints)
        animation.CreateTranslationsAttr(Vt.Vec3fArray([Gf.Vec3f(0.0)]))
        animation.CreateRotationsAttr(Vt.QuatfArray([Gf.Quatf(1.0)]))
        animation.CreateScalesAttr(Vt.Vec3hArray([Gf.Vec3h(1.0)]))
        names = Vt.TokenArray(list(targets.names))
        animation.CreateBlendShapesAttr(names)
        amounts = animation.CreateBlendShapeWeightsAttr()
        for frame, row in enumerate(targets.weights):
            amounts.Set(Vt.FloatArray.FromNumpy(np.ascontiguousarray(row, np.float32)), frame)
        UsdSkel.BindingAPI.Apply(skeleton.GetPrim()).CreateAnimationSourceRel().SetTargets([animation.GetPath()])

        binding = UsdSkel.BindingAPI.Apply(mesh.GetPrim())
        binding.CreateSkeletonRel().SetTargets([skeleton.GetPath()])
        binding.CreateJointIndicesPrimvar(True, 1).Set(Vt.IntArray([0]))
        binding.CreateJointWeightsPrimvar(True, 1).Set(Vt.FloatArray([1.0]))
        binding.CreateGeomBindTransformAttr(Gf.Matrix4d(1.0))
        binding.CreateBlendShapesAttr(names)
        shapes = []
        for name, offsets in zip(_prim_names(targets.names), targets.shapes, strict=True):
            shape = UsdSkel.BlendShape.Define(stage, f"{ROOT}/Mesh/{name}")
            # Most shapes move a small part of the face: only the vertices that they move are listed.
            moved = np.flatnonzero(np.any(offsets != 0.0, axis=1))
            shape.CreateOffsetsAttr(points(offsets[moved]))
            shape.CreatePointIndicesAttr(Vt.IntArray.FromNumpy(moved.astype(np.int32)))
            shapes.append(shape.GetPath())
        binding.CreateBlendShapeTargetsRel().SetTargets(shapes)

        if track is not None:
            strength = track.probabilities * track.intensity[:, None]
            code = (track.start + np.arange(len(strength)) / track.frame_rate) * fps
            for label, values in zip(track.labels, strength.T, strict=True):
                feeling = mesh.GetPrim().CreateAttribute(f"userProperties:emotion:{label}", Sdf.ValueTypeNames.Float, True)
                for time, value in zip(code, values, strict=True):
                    feeling.Set(float(value), float(time))
        stage.GetRootLayer().Save()


def _prim_names(names: Sequence[str]) -> list[str]:
    """Names of shapes as names of prims, each once: prims can't be called "jaw open" or "head.jawOpen"."""
    from pxr import Tf

    found: list[str] = []
    for name in map(Tf.MakeValidIdentifier, names):
        while name in found:
            name += "_"
        found.append(name)
    return found


def _paint(stage, mesh) -> None:
    """Gives the mesh a surface that shows its vertex colours, which renderers do not do by themselves."""
    from pxr import Sdf, UsdShade

    material = UsdShade.Material.Define(stage, f"{ROOT}/Skin")
    colour = UsdShade.Shader.Define(stage, f"{ROOT}/Skin/Colour")
    colour.CreateIdAttr("UsdPrimvarReader_float3")
    colour.CreateInput("varname", Sdf.ValueTypeNames.String).Set("displayColor")
    surface = UsdShade.Shader.Define(stage, f"{ROOT}/Skin/Surface")
    surface.CreateIdAttr("UsdPreviewSurface")
    surface.CreateInput("roughness", Sdf.ValueTypeNames.Float).Set(ROUGHNESS)
    diffuse = surface.CreateInput("diffuseColor", Sdf.ValueTypeNames.Color3f)
    diffuse.ConnectToSource(colour.CreateOutput("result", Sdf.ValueTypeNames.Float3))
    material.CreateSurfaceOutput().ConnectToSource(surface.CreateOutput("surface", Sdf.ValueTypeNames.Token))
    UsdShade.MaterialBindingAPI.Apply(mesh.GetPrim()).Bind(material)
