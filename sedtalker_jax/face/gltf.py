"""Moving faces as binary glTF 2.0 (.glb): a mesh with morph targets, their weights over time, and colours of its vertices.

Blender, Unreal, Unity, Godot, three.js and others read it. The specification is Khronos' glTF 2.0; pygltflib writes it.
"""

from __future__ import annotations

import os

import numpy as np

from sedtalker_jax.axes import TrianglesArray
from sedtalker_jax.emotion.formats import replace_when_complete
from sedtalker_jax.face.colours import linear_colours
from sedtalker_jax.face.morph_targets import MorphTargets
from sedtalker_jax.face.render import ROUGHNESS, VertexNormals, default_colours


class _Buffer:
    """The binary half of the file: arrays one after another, each with its view and accessor."""

    def __init__(self, gltf):
        self.gltf, self.content = gltf, bytearray()

    def add(self, array: np.ndarray, kind: str, target: int | None = None, *, bounds: bool = False) -> int:
        """Index of the accessor of an array, rows of which are `kind`; `bounds` where the specification wants them."""
        import pygltflib

        component = {"float32": pygltflib.FLOAT, "uint32": pygltflib.UNSIGNED_INT}[str(array.dtype)]
        view = pygltflib.BufferView(buffer=0, byteOffset=len(self.content), byteLength=array.nbytes, target=target)
        self.content += np.ascontiguousarray(array).tobytes()
        self.gltf.bufferViews.append(view)
        accessor = pygltflib.Accessor(
            bufferView=len(self.gltf.bufferViews) - 1, componentType=component, count=len(array), type=kind
        )
        if bounds:
            rows = array.reshape(len(array), -1)
            accessor.min, accessor.max = rows.min(0).tolist(), rows.max(0).tolist()
        self.gltf.accessors.append(accessor)
        return len(self.gltf.accessors) - 1


def write_gltf(path: str | os.PathLike, targets: MorphTargets, faces: TrianglesArray, fps: float, name: str = "face") -> None:
    """Writes a moving face as .glb, whole or not at all. Metres, y up, the face looks along z, as glTF has it.

    Args:
      targets: the motion; frame f is at f / fps seconds.
      faces: triangles.
      fps: frames per second.
      name: of the mesh.

    Raises:
      UserError: the place can't be written.
    """
    import pygltflib

    gltf = pygltflib.GLTF2(
        asset=pygltflib.Asset(version="2.0", generator="sedtalker_jax"),
        scene=0,
        scenes=[pygltflib.Scene(nodes=[0])],
        nodes=[pygltflib.Node(mesh=0, name=name)],
    )
    buffer = _Buffer(gltf)
    normals = VertexNormals(faces, len(targets.rest))
    at_rest = normals(targets.rest)
    colours = linear_colours(default_colours(len(targets.rest), faces))
    opaque = np.concatenate([colours, np.ones((len(colours), 1), np.float32)], axis=1)
    vertex = pygltflib.ARRAY_BUFFER
    primitive = pygltflib.Primitive(
        attributes=pygltflib.Attributes(
            POSITION=buffer.add(targets.rest.astype(np.float32), "VEC3", vertex, bounds=True),
            NORMAL=buffer.add(at_rest.astype(np.float32), "VEC3", vertex),
            COLOR_0=buffer.add(opaque, "VEC4", vertex),
        ),
        indices=buffer.add(np.asarray(faces, np.uint32).ravel(), "SCALAR", pygltflib.ELEMENT_ARRAY_BUFFER),
        material=0,
        targets=[
            pygltflib.Attributes(
                POSITION=buffer.add(shape.astype(np.float32), "VEC3", vertex, bounds=True),
                NORMAL=buffer.add((normals(targets.rest + shape) - at_rest).astype(np.float32), "VEC3", vertex),
            )
            for shape in targets.shapes
        ],
    )
    gltf.materials.append(
        pygltflib.Material(
            name="skin",
            pbrMetallicRoughness=pygltflib.PbrMetallicRoughness(metallicFactor=0.0, roughnessFactor=ROUGHNESS),
            alphaMode="OPAQUE",
            alphaCutoff=None,
        )
    )
    mesh = pygltflib.Mesh(name=name, primitives=[primitive], extras={"targetNames": list(targets.names)})
    gltf.meshes.append(mesh)
    if targets.names:
        mesh.weights = [0.0] * len(targets.names)
        times = (np.arange(len(targets.weights)) / fps).astype(np.float32)
        sampler = pygltflib.AnimationSampler(
            input=buffer.add(times, "SCALAR", bounds=True),
            output=buffer.add(targets.weights.astype(np.float32).ravel(), "SCALAR"),
            interpolation="LINEAR",
        )
        channel = pygltflib.AnimationChannel(sampler=0, target=pygltflib.AnimationChannelTarget(node=0, path="weights"))
        gltf.animations.append(pygltflib.Animation(name=name, samplers=[sampler], channels=[channel]))
    gltf.buffers.append(pygltflib.Buffer(byteLength=len(buffer.content)))
    gltf.set_binary_blob(bytes(buffer.content))
    with replace_when_complete(path) as temporary:
        gltf.save_binary(str(temporary))
