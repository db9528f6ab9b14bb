"""Recordings of any length through a causal animator, in memory that does not grow with them.

The animator takes pieces of one length, so that one program is compiled, and carries its state from each to the next: the
motion is that of the whole recording in one pass, up to rounding. Speech encoders hear both sides of a frame, so speech is
encoded in overlapping windows, and their features are joined before the animator meets them.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from sedtalker_jax import axes
from sedtalker_jax.axes import Lengths, WaveformArray
from sedtalker_jax.inference.windows import split
from sedtalker_jax.models.sedtalker import SEDTalkerConfig, SEDTalkerModel, Speech, speech_mask

if TYPE_CHECKING:
    from sedtalker_jax.inference.pipeline import SEDTalker
    from sedtalker_jax.inference.windows import HeardWindow

PIECE_S = 4.0
"""Seconds of motion that the animator makes in one call, unless asked otherwise. Shorter pieces come sooner and cost more: a
call takes about a millisecond whatever it does."""


class MotionStream:
    """A causal animator that is fed the frames of a recording in portions of any size.

    Example:
      stream = MotionStream(model, params, template_code, piece_frames=30)
      for content, activations in portions:
          motion = stream.push(content, activations)  # the whole pieces that are complete by now
      motion = stream.finish()  # the rest
    """

    def __init__(
        self,
        model: SEDTalkerModel,
        params,
        template_code: Float[np.ndarray, " Q"],
        *,
        piece_frames: int,
        subject: int | None = None,
    ):
        """Args:
          model, params: with a causal animator.
          template_code: of the face.
          piece_frames: frames that are animated at once; rounded up to a multiple of the animator's frame_stacking.
          subject: FaceCodec.subject_index of whom the face moves like; None = an unknown one.

        Raises:
          ValueError: the animator can't stream; the message says why.
        """
        stacking = model.config.animator.frame_stacking
        self.piece_frames = max(1, -(-piece_frames // stacking)) * stacking
        self._model, self._params = model, params
        self._code = jnp.asarray(template_code)[None]
        self._subject = None if subject is None else jnp.asarray(subject)[None]
        self._restart()

    def _restart(self) -> None:
        self._state = self._model.initial_state(1)
        self._waiting: list[np.ndarray] | None = None

    def push(
        self,
        content: Float[np.ndarray, "f D"],
        activations: Float[np.ndarray, "f K-1"],
        residual: Float[np.ndarray, "f C"] | None = None,
    ) -> Float[np.ndarray, "g R"]:
        """The motion of the pieces that the next frames complete; none may be.

        Args:
          content: speech features at the animation frames (SEDTalkerModel.face_features).
          activations: emotion strengths.
          residual: style residual, with every portion or with none.
        """
        portion = [content, activations] + ([] if residual is None else [residual])
        if self._waiting is not None:
            portion = [np.concatenate(parts) for parts in zip(self._waiting, portion, strict=True)]
        size, motions = self.piece_frames, []
        whole = len(portion[0]) // size * size
        for start in range(0, whole, size):
            motions.append(self._run([part[start : start + size] for part in portion]))
        self._waiting = [part[whole:] for part in portion]
        return np.concatenate(motions) if motions else self._nothing()

    def finish(self) -> Float[np.ndarray, "g R"]:
        """The motion of the frames that complete no piece. What is pushed next begins another recording."""
        waiting = self._waiting
        motion = self._nothing() if waiting is None or not len(waiting[0]) else self._run(waiting)
        self._restart()
        return motion

    def _nothing(self) -> np.ndarray:
        return np.zeros((0, self._model.config.animator.rank), np.float32)

    def _run(self, frames: list[np.ndarray]) -> np.ndarray:
        count = len(frames[0])
        padded = [np.pad(part, ((0, self.piece_frames - count), (0, 0)))[None] for part in frames]
        mask = np.arange(self.piece_frames)[None, :] < count
        content, activations, residual = (*padded, None)[:3]
        motion, self._state = _animate_piece(
            self._model, self._params, content, activations, residual, self._code, mask, self._state, self._subject
        )
        return np.asarray(motion[0, :count])


@functools.partial(jax.jit, static_argnames="model")
def _animate_piece(model: SEDTalkerModel, params, *arguments):
    return model.apply({"params": params}, *arguments, method=SEDTalkerModel.animate_piece)


def stream_motion(
    talker: SEDTalker,
    waveform: WaveformArray,
    activations: Float[np.ndarray, "F K-1"],
    template_code: Float[np.ndarray, " Q"],
    *,
    use_residual: bool = True,
    heard: Sequence[HeardWindow] | None = None,
    subject: int | None = None,
    piece_s: float = PIECE_S,
) -> Iterator[Float[np.ndarray, "f R"]]:
    """Normalised motion coefficients of a recording, in consecutive stretches that together are F frames.

    Args:
      talker: with a causal animator.
      waveform: float [S] at 16 kHz; a memory map will do. Beside it, memory is that of one window.
      activations: [F, K-1], F = num_animation_frames(S, fps).
      template_code: of the face.
      use_residual: whether the voice's style residual joins the condition.
      heard: windows whose embeddings give the residual, such as edited ones; None = what the diarizer hears. Windows that were
        heard to be animated give the content too.
      subject: FaceCodec.subject_index of whom the face moves like; None = an unknown one.
      piece_s: seconds that the animator makes at once.
    """
    model = talker.model
    total = axes.num_animation_frames(len(waveform), talker.fps)
    piece_frames = round(piece_s * talker.fps)
    stream = MotionStream(model, talker.params, template_code, piece_frames=piece_frames, subject=subject)
    residual_width = style_residual_width(model.config) if use_residual else 0
    windows = window_features(talker, waveform, heard, has_residual=residual_width > 0)
    done, size = 0, stream.piece_frames
    for features in join_overlapping(windows, total):
        width = features.shape[1] - residual_width
        # A piece at a time, so that each is handed out before the next is made.
        for start in range(0, len(features), size):
            portion = features[start : start + size]
            strengths = activations[done : done + len(portion)]
            motion = stream.push(portion[:, :width], strengths, portion[:, width:] if residual_width else None)
            done += len(portion)
            if len(motion):
                yield motion
    rest = stream.finish()
    if len(rest):
        yield rest


def join_overlapping(pieces: Iterable[tuple[int, Float[np.ndarray, "f c"]]], total: int) -> Iterator[Float[np.ndarray, "g c"]]:
    """One sequence, in consecutive stretches, from overlapping pieces that come in order.

    Where two pieces overlap, the outer quarters of the overlap belong to one of them alone, the one whose end is farther away,
    and between them it is faded from one to the other. So what a frame is made of reaches past no piece's end unless it
    reaches farther than a quarter of an overlap.

    Args:
      pieces: (index of the first frame, frames) each; neighbours overlap or meet, others don't.
      total: frames in the whole; where the last piece ends sooner, its last frame is repeated.
    """
    start, held = 0, None
    for first, piece in pieces:
        if held is not None:
            cut = first - start
            # First frames and lengths are rounded apart: a short last piece may end a frame before the one it follows.
            overlap = min(len(held) - cut, len(piece))
            share = np.clip(2.0 * (np.arange(overlap) + 0.5) / max(overlap, 1) - 0.5, 0.0, 1.0)[:, None].astype(piece.dtype)
            faded = held[cut : cut + overlap] * (1 - share) + piece[:overlap] * share
            yield held[:cut]
            piece = np.concatenate([faded, piece[overlap:], held[cut + overlap :]])
        start, held = first, piece
    if held is not None:
        held = held[: total - start]
        yield np.pad(held, ((0, total - start - len(held)), (0, 0)), mode="edge")


def style_residual_width(config: SEDTalkerConfig) -> int:
    """Width of the style residual that the animator hears; 0 in a model without one."""
    return config.diarizer.embedding_size if config.style_residual and config.diarizer is not None else 0


def window_features(
    talker: SEDTalker, waveform: WaveformArray, heard: Sequence[HeardWindow] | None = None, *, has_residual: bool
) -> Iterator[tuple[int, np.ndarray]]:
    """(first animation frame, content features and residual side by side) of each window."""
    for number, window in enumerate(split(len(waveform), talker.window_s, talker.overlap_s, talker.fps)):
        padded, length = talker.padded_window(waveform, window)
        embeddings, contents = padded_features(None if heard is None else heard[number], padded.shape[1])
        features = _encode_window(
            talker.model,
            talker.params,
            padded,
            length,
            embeddings,
            contents,
            fps=talker.fps,
            num_frames=axes.num_animation_frames(padded.shape[1], talker.fps),
            has_residual=has_residual,
        )
        frames = axes.num_animation_frames(window.stop - window.start, talker.fps)
        yield round(window.start / axes.SAMPLE_RATE * talker.fps), np.asarray(features)[0, :frames]


def padded_features(
    heard: HeardWindow | None, num_samples: int
) -> tuple[Float[jax.Array, "1 T C"] | None, Float[jax.Array, "1 T D"] | None]:
    """Embedding and content of a window that was padded to `num_samples` samples; None for what is not known."""
    known = (None, None) if heard is None else (heard.embedding, heard.content)
    total = axes.num_speech_frames(num_samples)
    return tuple(None if x is None else jnp.asarray(np.pad(x, ((0, total - len(x)), (0, 0))))[None] for x in known)


def known_speech(contents: Float[jax.Array, "B T D"], lengths: Lengths) -> Speech:
    """Speech whose content features are known: no encoder needs to run."""
    return Speech(None, contents, speech_mask(lengths, contents.shape[1]))


@functools.partial(jax.jit, static_argnames=("model", "fps", "num_frames", "has_residual"))
def _encode_window(model: SEDTalkerModel, params, waveforms, lengths, embeddings, contents, *, fps, num_frames, has_residual):
    def method(m: SEDTalkerModel):
        residual = None
        if contents is None:
            speech = m.encode(waveforms, lengths, emotion=has_residual and embeddings is None)
        else:
            speech = known_speech(contents, lengths)
        if has_residual:
            residual = m.residual(m.diarize(speech) if embeddings is None else m.read_embedding(embeddings))
        rate = jnp.full(lengths.shape, fps, jnp.float32)
        parts = m.face_features(speech, residual, rate, num_frames)
        # In float32, which holds every value of a narrower format: windows are faded into one another outside.
        return jnp.concatenate([part.astype(jnp.float32) for part in parts if part is not None], axis=-1)

    return model.apply({"params": params}, method=method)
