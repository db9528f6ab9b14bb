"""Which vertices the scores of other people's files are taken over, from region files in their layouts."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sedtalker_jax.errors import UserError
from sedtalker_jax.evaluation.animation_evaluation import AnimationRegions
from sedtalker_jax.face.lip_points import FLAME_LIP_POINTS
from sedtalker_jax.face.mesh_files import EMOTIONAL_REGIONS, LIP_REGIONS, UPPER_FACE_REGIONS, join_regions, read_regions

FLAME_NUM_VERTICES = 5_023


def animation_regions(
    path: str | os.PathLike,
    num_vertices: int,
    *,
    lips: Sequence[str] | None = None,
    emotional: Sequence[str] | None = None,
    upper_face: Sequence[str] | None = None,
    lip_points: tuple[int, int] | None = None,
) -> AnimationRegions:
    """Vertex sets for scores from a region file, chosen by name; what is left out goes by the names in common use.

    lips: `lips`, else `lve`. emotional: `eye_region` with `forehead`. upper_face: `upper_face`, else `fdd`, else `forehead`
    with `eye_region`. A file called `vocaset_lve.txt` counts as `lve`. Only the lips are needed. The names and counts stand in
    the note under the table.

    Args:
      lip_points: upper and lower middle of the lips; by default the file's `upper_lip_middle` and `lower_lip_middle`, else
        FLAME_LIP_POINTS on FLAME's 5,023 vertices, else no lip distance is measured.

    Raises:
      UserError: a named region is missing, or there are no lips.
    """
    regions = read_regions(path, num_vertices)

    def union(wanted: Sequence[str] | None, usual: tuple[tuple[str, ...], ...]) -> tuple[str, np.ndarray] | None:
        found = join_regions(regions, usual if wanted is None else (tuple(wanted),))
        if found is None and wanted is not None:
            raise UserError(f"{path}: no region {', '.join(wanted)}; it has {', '.join(sorted(regions))}")
        return found

    lip_choice = union(lips, LIP_REGIONS)
    if lip_choice is None:
        raise UserError(f"{path}: no region 'lips' or 'lve'; name one of {', '.join(sorted(regions))}")
    found = {
        "lips": lip_choice,
        "emotional": union(emotional, EMOTIONAL_REGIONS),
        "upper_face": union(upper_face, UPPER_FACE_REGIONS),
    }
    upper, lower = regions.get("upper_lip_middle"), regions.get("lower_lip_middle")
    if lip_points is None and upper is None and num_vertices == FLAME_NUM_VERTICES:
        lip_points = FLAME_LIP_POINTS
    if lip_points is not None:
        upper, lower = (np.array([point], np.int64) for point in lip_points)
    used = ", ".join(f"{role} = {choice[0]}" for role, choice in found.items() if choice is not None)
    sets = {role: None if choice is None else choice[1] for role, choice in found.items()}
    name = f"{Path(path).name} ({used})"
    return AnimationRegions(name, lip_choice[1], sets["emotional"], sets["upper_face"], upper, lower, num_vertices)
