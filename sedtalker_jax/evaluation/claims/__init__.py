"""The claims of the papers and of this project, tested: arms are trained, scored and compared under one protocol.

docs/claims.md is the protocol; `python -m sedtalker_jax.evaluation.claims` (or `make claims`) runs it.
"""
