"""Accelerator kernels, one folder per op. Imports nothing heavy and nothing of `sedtalker_jax`, so that it stands alone.

Use `from kernels.<op> import <op>`. Hugging Face has an optional distribution of the same import name; no distribution of
this project is called `kernels`, and transformers works with this package on the path (see README.md).
"""
