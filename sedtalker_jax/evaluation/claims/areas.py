"""All jobs of the claims: what each area needs trained and scored."""

from __future__ import annotations

from sedtalker_jax.evaluation.claims import animation, backbone, diarization, disentanglement, editing, identity, left_out
from sedtalker_jax.evaluation.claims.jobs import Job
from sedtalker_jax.evaluation.claims.settings import Settings

AREAS = (diarization, left_out, animation, disentanglement, identity, backbone, editing)
"""Modules with a function `jobs(settings)`, one for each group of claims or tables."""


def all_jobs(settings: Settings) -> list[Job]:
    """The jobs of every area and seed, in no particular order."""
    return [job for area in AREAS for job in area.jobs(settings)]
