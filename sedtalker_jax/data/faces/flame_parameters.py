"""Base of the readers of data sets that come as FLAME parameters; threedmead.py and threed_ravdess.py say which.

    param/<clip>.npy    [F, 403] or [1, F, 403]: 300 shape, 100 expression, 3 jaw;
                        or [F, 156]: 100 shape, 50 expression, 6 pose (root, jaw), as EMOCA and DECA write them
    param/<clip>.npz    arrays shape, exp, jaw (or pose)
    wav/<clip>.wav

A tracker estimates the identity anew in each frame. A face has one identity, so each subject gets the mean of its clips'
shape parameters, all motion is decoded with it, and that is what "original" means here. Head pose is left out.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Float

from sedtalker_jax.data.corpora.speech import speech_record
from sedtalker_jax.data.faces.corpus import SHARED_OPTIONS, FaceClip, FaceCorpus, Motion, listed_files, what_is_in
from sedtalker_jax.data.faces.flame import NUM_EXPRESSION, NUM_SHAPE, Flame
from sedtalker_jax.data.faces.surface import Surface, find_regions, load_regions
from sedtalker_jax.errors import UNREADABLE_ARRAYS, UserError
from sedtalker_jax.face.mesh_files import load_npz
from sedtalker_jax.face.template import topology_name

FLAME_OPTIONS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {**SHARED_OPTIONS, "flame": ("", "directory with FLAME's generic_model.pkl; it is licensed: flame.is.tue.mpg.de")}
)

_LAYOUTS = {403: (300, 100, "jaw"), 156: (100, 50, "pose")}
_IDENTITY_CLIPS = 24  # clips of a subject that its identity is averaged over


class FlameCorpus(FaceCorpus):
    """A data set of FLAME parameters with emotional voice and face."""

    def open_motion(self, clip: FaceClip, root: Path) -> Motion:
        """See FaceCorpus.open_motion."""
        flame = _flame(clip.options["flame"])
        _, expression, jaw = read_parameters(root / clip.motion)
        return _Decoded(flame, _identities(self, root)[clip.speaker], expression, jaw)

    def templates(self, root: Path, options: Mapping[str, str]) -> Mapping[str, Float[np.ndarray, "V 3"]]:
        """See FaceCorpus.templates."""
        flame = _flame(options["flame"])
        return {subject: flame.neutral(shape) for subject, shape in _identities(self, root).items()}

    def surface(self, root: Path, options: Mapping[str, str], num_vertices: int) -> Surface:
        """See FaceCorpus.surface. Regions may also lie in FLAME's directory, beside its model."""
        faces = _flame(options["flame"]).faces
        folders = [root, Path(options["flame"])]
        regions, notes = load_regions(find_regions(options["regions"], folders), num_vertices)
        return Surface(topology_name(num_vertices, len(faces), faces), faces, regions, {"triangles": "FLAME", **notes})

    def voice_truth(self, clip: FaceClip, waveform: Float[np.ndarray, " S"]) -> dict[str, Any]:
        """See FaceCorpus.voice_truth: the voice says what the face shows, over the whole clip."""
        return speech_record(waveform, [[0.0, round(len(waveform) / 16_000, 4), clip.fields["label"]]])

    def files(self, root: Path) -> tuple[dict[str, tuple[Path, Path]], list[str], list[str]]:
        """Stem -> (parameters, sound); stems without a sound; sounds without parameters.

        Raises:
          UserError: no folder param/.
        """
        if not (root / "param").is_dir():
            raise UserError(f"{root}: not {self.name}: expected param/ and wav/; found {what_is_in(root)}")
        parameters = listed_files(root / "param", ".npz") | listed_files(root / "param", ".npy")
        sounds = listed_files(root / "wav", ".wav")
        both = {stem: (parameters[stem], sounds[stem]) for stem in sorted(set(parameters) & set(sounds))}
        return both, sorted(set(parameters) - set(sounds)), sorted(set(sounds) - set(parameters))

    def subject_of(self, stem: str) -> str | None:
        """Subject in a file's name; None for a name that is not of this data set."""
        raise NotImplementedError


def read_parameters(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(shape [F or 1, n], expression [F, e], jaw [F, 3]) of a parameter file.

    Raises:
      UserError: missing, damaged, or of another width.
    """
    if path.suffix == ".npz":
        arrays = load_npz(path)
        lacking = [name for name in ("shape", "exp") if name not in arrays]
        if lacking or not ("jaw" in arrays or "pose" in arrays):
            raise UserError(f"{path}: holds {', '.join(arrays) or 'nothing'}; arrays shape, exp and jaw (or pose) are needed")
        shape, expression = (np.atleast_2d(np.squeeze(arrays[name])) for name in ("shape", "exp"))
        pose = np.atleast_2d(np.squeeze(arrays["jaw"] if "jaw" in arrays else arrays["pose"]))
    else:
        try:
            array = np.load(path, allow_pickle=False)
        except FileNotFoundError:
            raise UserError(f"{path}: no such file") from None
        except UNREADABLE_ARRAYS as error:
            raise UserError(f"{path}: not a whole .npy file of numbers ({error}); fetch it again") from None
        array = array.reshape(-1, array.shape[-1]) if array.ndim in (2, 3) else array
        if array.ndim != 2 or array.shape[1] not in _LAYOUTS:
            widths = " or ".join(f"[F, {width}]" for width in _LAYOUTS)
            raise UserError(f"{path}: has shape {list(array.shape)}; FLAME parameters are {widths}")
        shapes, expressions, _ = _LAYOUTS[array.shape[1]]
        shape, expression, pose = np.split(array, [shapes, shapes + expressions], axis=1)
    jaw = pose[:, -3:]
    if shape.shape[1] > NUM_SHAPE or expression.shape[1] > NUM_EXPRESSION or pose.shape[1] not in (3, 6):
        raise UserError(f"{path}: {shape.shape[1]} shape, {expression.shape[1]} expression, {pose.shape[1]} pose parameters")
    if len(jaw) != len(expression) or not all(np.isfinite(part).all() for part in (shape, expression, jaw)):
        raise UserError(f"{path}: parameters of unequal length, or not finite")
    return shape, expression, jaw


class _Decoded:
    """FLAME vertices of one clip, decoded when asked for."""

    def __init__(self, flame: Flame, shape: np.ndarray, expression: np.ndarray, jaw: np.ndarray) -> None:
        self._flame, self._shape, self._expression, self._jaw = flame, shape, expression, jaw

    def __len__(self) -> int:
        return len(self._expression)

    def __getitem__(self, frames: slice | np.ndarray) -> np.ndarray:
        return self._flame.vertices(self._shape, self._expression[frames], self._jaw[frames]).astype(np.float64)


def _flame(directory: str) -> Flame:
    if not directory:
        raise UserError(
            "this data set is FLAME parameters: give --option flame=DIR with FLAME's generic_model.pkl (flame.is.tue.mpg.de)"
        )
    return _load_flame(directory)


@functools.lru_cache(maxsize=1)
def _load_flame(directory: str) -> Flame:
    return Flame.load(directory)


def _identities(corpus: FlameCorpus, root: Path) -> Mapping[str, np.ndarray]:
    return _mean_shapes(corpus, str(root))


@functools.lru_cache(maxsize=2)
def _mean_shapes(corpus: FlameCorpus, root: str) -> Mapping[str, np.ndarray]:
    """Subject -> shape parameters [300], the mean over the subject's clips (at most 24 of them, spread evenly)."""
    files, _, _ = corpus.files(Path(root))
    by_subject: dict[str, list[Path]] = {}
    for stem, (parameters, _) in files.items():
        subject = corpus.subject_of(stem)
        if subject is not None:
            by_subject.setdefault(subject, []).append(parameters)
    return {subject: mean_shape(paths) for subject, paths in sorted(by_subject.items())}


def mean_shape(paths: Iterable[Path]) -> Float[np.ndarray, " 300"]:
    """Mean over clips of their mean shape parameters, filled up with zeros. Damaged files do not count."""
    paths = list(paths)
    chosen = [paths[i] for i in np.unique(np.linspace(0, len(paths) - 1, min(len(paths), _IDENTITY_CLIPS)).astype(int))]
    total, count = np.zeros(NUM_SHAPE), 0
    for path in chosen:
        try:
            shape, _, _ = read_parameters(path)
        except UserError:
            continue  # make_record reports it
        total[: shape.shape[1]] += shape.mean(axis=0, dtype=np.float64)
        count += 1
    return total / max(count, 1)
