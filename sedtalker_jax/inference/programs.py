"""The two programs of a trained model, compiled once for all models of one architecture and one shape of input."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from sedtalker_jax.inference.streaming import known_speech, style_residual_width
from sedtalker_jax.models.sedtalker import SEDTalkerModel


@functools.partial(jax.jit, static_argnames=("model", "content"))
def hear_rows(model: SEDTalkerModel, params, waveforms, lengths, given_embeddings=None, *, content: bool):
    """Logits, intensity, embedding and, if wanted, content features; compiled once for all models of one architecture.

    given_embeddings [B, C] are for a diarizer that reads them.
    """

    def method(model):
        speech = model.encode(waveforms, lengths, content=content, given_embedding=given_embeddings)
        emotion = model.diarize(speech)
        return emotion.logits, emotion.intensity, emotion.embedding, speech.content_features

    return model.apply({"params": params}, method=method)


@functools.partial(jax.jit, static_argnames=("model", "fps", "use_residual"))
def animate_rows(
    model: SEDTalkerModel,
    params,
    waveforms: Float[jax.Array, "B S"],
    lengths: Int[jax.Array, " B"],
    activations: Float[jax.Array, "rows F K-1"],
    codes: Float[jax.Array, "B Q"],
    num_frames: Int[jax.Array, " B"],
    *,
    fps: float,
    embeddings: Float[jax.Array, "rows T C"] | None = None,
    contents: Float[jax.Array, "B T D"] | None = None,
    use_residual: bool = True,
    subjects: Int[jax.Array, "B"] | None = None,
) -> Float[jax.Array, "rows F R"]:
    """Normalised motion of many rows; compiled once for all models of one architecture.

    Args:
      model, params: with an animator.
      waveforms, lengths, codes, num_frames: padded recordings with their lengths in samples, template codes and lengths in
        animation frames; one for each row, or one for all rows, which is then heard once.
      activations: emotion strengths at the animation frames.
      fps: rate of the animation frames.
      embeddings: give each row its style residual, such as edited ones; None = what the diarizer hears.
      contents: content features of the recordings, if they are known already; no encoder is run then. With embeddings only.
      use_residual: whether a joint model's style residual joins the condition.
      subjects: FaceCodec.subject_index, one for each row or one for all; None = unknown ones.
    """
    rows = activations.shape[0]

    def every_row(tree):
        return jax.tree.map(lambda x: jnp.broadcast_to(x, (rows, *x.shape[1:])), tree)

    def method(m: SEDTalkerModel):
        residual = None
        styled = use_residual and style_residual_width(model.config) > 0
        if contents is None:
            speech = m.encode(waveforms, lengths, emotion=styled and embeddings is None)
        else:
            speech = known_speech(contents, lengths)
        if styled:
            residual = every_row(m.residual(m.diarize(speech) if embeddings is None else m.read_embedding(embeddings)))
        mask = jnp.arange(activations.shape[1])[None, :] < num_frames[:, None]
        rate = jnp.full((rows,), fps, jnp.float32)
        subject = None if subjects is None else every_row(subjects)
        return m.animate(every_row(speech), activations, residual, every_row(codes), rate, every_row(mask), subject=subject)

    return model.apply({"params": params}, method=method)
