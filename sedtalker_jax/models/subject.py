"""Whose way of moving a face has: the integers that batches carry. Importable without a JAX back end."""

UNKNOWN_SUBJECT = 0
"""Of a subject that training did not see. Those that it saw are counted from 1, in the order of FaceCodec.subjects."""
