"""Readers of speech emotion corpora, one module each, from their official layouts (protocol: sedtalker_jax.data.prepare)."""
