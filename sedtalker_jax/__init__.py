"""Emotion-aware speech-driven 3D facial animation in JAX."""
