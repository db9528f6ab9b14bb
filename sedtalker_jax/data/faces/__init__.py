"""Readers of face data sets, one file per set; sedtalker_jax.data.prepare drives them.

corpus.py holds what they share, surface.py the meshes and regions, space_fit.py the vertex basis, motion_code.py how motion is
stored to 0.01 mm, flame.py the decoder of FLAME parameters.
"""
