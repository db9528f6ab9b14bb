"""BIWI on the decimated mesh of 3,895 vertices that ScanTalk and JambaTalk use; layout, subjects and split are BIWI's."""

from __future__ import annotations

from sedtalker_jax.data.faces.biwi import Biwi


class Biwi6(Biwi):
    """See the module's docstring. Its triangles are those of a subject's mesh, such as BIWI_6.ply."""

    name = "biwi_6"
    num_vertices = 3895
    mesh_names = ("BIWI_6.ply", "BIWI.ply", "templates/BIWI_6.ply", "templates/BIWI_topology.ply")


CORPUS = Biwi6()
