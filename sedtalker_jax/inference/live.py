"""Speech that is still being spoken, animated a moment later.

At every step the model hears the last seconds of sound and animates them whole. Of that motion the frames are handed out that
are new and lie `lookahead_s` or more before the end of the sound: speech is made of what follows as well as of what came
before. The next step makes the same frames again with more of what follows; neighbouring steps are faded into one another, so
that the face does not jump from one to the next, and what has been handed out is never taken back.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from sedtalker_jax import axes
from sedtalker_jax.axes import VertexSequence, WaveformArray
from sedtalker_jax.emotion import EmotionTrack
from sedtalker_jax.errors import UserError
from sedtalker_jax.face.template import FaceTemplate
from sedtalker_jax.inference.pipeline import MIN_DURATION_S, Animation, GivenEmbedding, SEDTalker
from sedtalker_jax.inference.windows import aligned_start

LOOKAHEAD_S = 0.3
STEP_S = 0.1
FADE_S = 0.3
"""Over which frames go over from what one step made of them to what the next one does, as far as the first made any."""

_MARGIN_S = 0.6
"""Sound that a step hears beside its new frames and what follows them: by so much windows may begin late (aligned_start), and
MIN_DURATION_S."""


@dataclasses.dataclass(frozen=True, eq=False)
class LivePiece:
    """The frames that one step hands out.

    Attributes:
      first_frame: index of the first one in the recording.
      motion: [f, R] normalised coefficients of it.
      vertices: float32 [f, V, 3] in metres.
      probabilities, intensity: [t, K] and [t], the speech frames that drove the face since the piece before.
    """

    first_frame: int
    motion: Float[np.ndarray, "f R"]
    vertices: VertexSequence
    probabilities: Float[np.ndarray, "t K"]
    intensity: Float[np.ndarray, " t"]


class LiveSession:
    """One recording while it is made. Its frames depend on the sound alone, however that is cut, where nobody hurries.

    Frame f is handed out by the `push` that brings the sound to f / fps + lookahead_s, or by one at most step_s of sound later.
    Memory does not grow with the recording.

    Example:
      session = LiveSession(model)
      for samples in microphone:
          for piece in session.push(samples):
              show(piece.vertices)
      session.feel("happy", 0.8)  # from here on, instead of what is heard
    """

    def __init__(
        self,
        talker: SEDTalker,
        *,
        template: FaceTemplate | str | os.PathLike | None = None,
        lookahead_s: float = LOOKAHEAD_S,
        step_s: float = STEP_S,
        context_s: float | None = None,
        use_residual: bool = True,
        subject: str | None = None,
        given_embedding: GivenEmbedding = None,
    ):
        """Args:
          talker: with an animator; one whose diarizer is missing needs `feel` before the first `push`.
          template, use_residual, subject, given_embedding: as of SEDTalker.animate.
          lookahead_s: how much of what follows a frame is made of, at least. More is more exact and comes later.
          step_s: sound between two steps. A shorter step comes sooner and costs as much each time.
          context_s: sound that is heard at a step; None = what a training clip lasts.

        Raises:
          UserError: as SEDTalker.animate; a length that is not positive, or a context that is too short or longer than the
            model's window.
        """
        self.talker, self.face = talker, talker.template(template)
        context_s = talker.pad_to_s if context_s is None else context_s
        if not (step_s > 0 and lookahead_s >= 0):
            raise UserError(
                f"a step of {step_s:g} s and a lookahead of {lookahead_s:g} s: no time may be negative, nor the step 0"
            )
        shortest = lookahead_s + step_s + _MARGIN_S
        if not shortest <= context_s <= talker.window_s:
            raise UserError(
                f"a lookahead of {lookahead_s:g} s and a step of {step_s:g} s need {shortest:g} s of sound at once; "
                f"{context_s:g} s are to be heard, and this model hears at most {talker.window_s:g} s"
            )
        self.lookahead_s, self.step_s = lookahead_s, step_s
        self._step, self._lookahead, self._context = (
            max(1, round(seconds * axes.SAMPLE_RATE)) for seconds in (step_s, lookahead_s, context_s)
        )
        self._options = dict(use_residual=use_residual, subject=subject, given_embedding=given_embedding)
        self._given: EmotionTrack | None = None
        self._sound, self._heard_samples = np.zeros(0, np.float32), 0
        self._frames, self._speech_frames, self._steps = 0, 0, 0
        # From frame self._frames on: what the last step made of frames that it did not hand out.
        self._ahead = np.zeros((0, talker.codec.space.basis.shape[0]), np.float32)
        # Strengths that drove the handed-out frames of the last step's window.
        self._felt = np.zeros((0, len(talker.labels) - 1), np.float32)

    def feel(self, emotion: str | None, intensity: float = 1.0) -> None:
        """What the face feels in all frames that are not handed out yet, instead of what is heard; None = what is heard.

        Args:
          emotion: a label of the model's.
          intensity: 0 to 1.

        Raises:
          UserError: an emotion that the face can't show, or an intensity out of range.
        """
        self._given = None
        if emotion is not None:
            self._given = EmotionTrack.trajectory([emotion], intensity, 1.0, self.talker.labels)
            self.talker.activations(self._given, axes.SAMPLE_RATE)

    def warm_up(self) -> VertexSequence:
        """Compiles the programs, on silence, so that the first steps take no longer than others; returns what that looks like.

        Raises:
          UserError: no emotion is known: the checkpoint has no diarizer, and nothing was said by `feel`.
        """
        for samples in (round(MIN_DURATION_S * axes.SAMPLE_RATE), self._context):
            _, _, motion = self._animated(np.zeros(samples, np.float32), self._felt[:0])
        return self.talker.codec.vertices(self.face.vertices, motion)

    def push(self, samples: WaveformArray, *, hurry: bool = False) -> list[LivePiece]:
        """Takes the next samples; returns the pieces, one a step, that they complete. There may be none.

        Args:
          samples: float [s] at 16 kHz in [-1, 1], of any number.
          hurry: of the steps that the samples complete only the last is taken, as far as the context reaches: what a session
            that has fallen behind catches up by. Its frames are then made of more of what follows, and how the sound is cut
            into portions does matter.

        Raises:
          UserError: samples that are not one channel of finite numbers; no emotion is known.
        """
        samples = np.asarray(samples, np.float32)
        if samples.ndim != 1 or not np.isfinite(samples).all():
            raise UserError(f"samples of shape {samples.shape}: expected one channel [s] of finite numbers")
        self._sound = np.concatenate([self._sound, samples])
        pieces = []
        while (self._steps + 1) * self._step <= self._end:
            self._steps = max(self._steps + 1, self._last_step() if hurry else 0)
            end = self._steps * self._step
            # The last frame that has its lookahead, and no frame beyond those that the sound is long enough for.
            due = int(np.floor((end - self._lookahead) / axes.SAMPLE_RATE * self.talker.fps + 1e-6)) + 1
            due = min(due, axes.num_animation_frames(end, self.talker.fps))
            if due > self._frames and end >= MIN_DURATION_S * axes.SAMPLE_RATE:
                pieces.append(self._made(end, due))
        self._forget(self._steps * self._step)
        return pieces

    def finish(self) -> list[LivePiece]:
        """What was waiting for more sound; then the recording is at its end, and as long as `animate` has it.

        Without a lookahead the frames may all be out, and only speech frames be left: then the piece has none of the face.

        Raises:
          UserError: the whole recording is shorter than MIN_DURATION_S.
        """
        frames = axes.num_animation_frames(self._end, self.talker.fps)
        left = frames > self._frames or axes.num_speech_frames(self._end) > self._speech_frames
        return [self._made(self._end, frames)] if self._end and left else []

    def animation(self, pieces: Sequence[LivePiece]) -> Animation:
        """All pieces of the recording as one animation.

        Raises:
          UserError: there are none.
        """
        if not pieces:
            raise UserError("no sound came: there is nothing to animate")
        rows = [np.concatenate([getattr(piece, name) for piece in pieces]) for name in ("probabilities", "intensity", "motion")]
        track = EmotionTrack(self.talker.labels, *rows[:2], duration=self._end / axes.SAMPLE_RATE)
        return self.talker.animation(rows[2], self.face, track)

    def _last_step(self) -> int:
        """The last step that the sound completes and whose window still holds what was not handed out."""
        first = min(self._frames / self.talker.fps, self._speech_frames / axes.FRAME_RATE)
        reach = int((first - _MARGIN_S) * axes.SAMPLE_RATE) + self._context
        return min(self._end, reach) // self._step

    @property
    def _end(self) -> int:
        """Samples that were pushed so far."""
        return self._heard_samples + len(self._sound)

    def _forget(self, end: int) -> None:
        """Drops the sound that no later step hears."""
        stale = max(0, end - self._context - self._heard_samples)
        self._sound, self._heard_samples = self._sound[stale:], self._heard_samples + stale

    def _made(self, end: int, due: int) -> LivePiece:
        """The frames before `due`, made of the sound before sample `end`."""
        talker = self.talker
        start = aligned_start(max(0, end - self._context), talker.fps)
        first = round(start / axes.SAMPLE_RATE * talker.fps)
        done = self._frames - first
        window = self._sound[start - self._heard_samples : end - self._heard_samples]
        track, strengths, motion = self._animated(window, self._felt[len(self._felt) - done :])
        # Lengths are rounded: a window may end a frame before the recording does.
        missing = (0, max(0, due - first - len(motion))), (0, 0)
        strengths, motion = np.pad(strengths, missing, mode="edge"), np.pad(motion, missing, mode="edge")[done:]
        fade = min(len(self._ahead), len(motion), round(FADE_S * talker.fps))
        share = ((np.arange(fade) + 1) / (fade + 1))[:, None].astype(np.float32)
        motion[:fade] = self._ahead[:fade] * (1 - share) + motion[:fade] * share
        count = due - self._frames
        piece = LivePiece(
            self._frames,
            motion[:count],
            talker.codec.vertices(self.face.vertices, motion[:count]),
            *self._speech_since(track, due, start, end),
        )
        self._frames, self._ahead, self._felt = due, motion[count:], strengths[: due - first]
        return piece

    def _animated(
        self, window: WaveformArray, felt: Float[np.ndarray, "f K-1"]
    ) -> tuple[EmotionTrack, Float[np.ndarray, "F K-1"], Float[np.ndarray, "F R"]]:
        """Track, strengths and motion of a window. Its first frames, which are shown already, keep what they felt then."""
        talker, heard = self.talker, None
        if talker.model.config.diarizer is not None:
            heard = talker.hear(window, to_animate=True, given_embedding=self._options["given_embedding"])
        if self._given is not None:
            rows = np.zeros(axes.num_speech_frames(len(window)), int)
            track = dataclasses.replace(
                self._given,
                probabilities=self._given.probabilities[rows],
                intensity=self._given.intensity[rows],
                duration=len(window) / axes.SAMPLE_RATE,
            )
        elif heard is not None:
            track = talker.combine(heard)
        else:
            raise UserError("this checkpoint holds an animator alone and can't hear emotion; say what the face feels")
        strengths = talker.activations(track, len(window))
        strengths[: len(felt)] = felt
        return track, strengths, np.array(talker.motion(window, strengths, self.face, heard=heard, **self._options))

    def _speech_since(
        self, track: EmotionTrack, due: int, start: int, end: int
    ) -> tuple[Float[np.ndarray, "t K"], Float[np.ndarray, " t"]]:
        """Probabilities and intensity of the speech frames before frame `due` that are not handed out; at the end, the rest."""
        total = axes.num_speech_frames(end)
        if due < axes.num_animation_frames(end, self.talker.fps):
            total = min(total, int(due / self.talker.fps * axes.FRAME_RATE))
        total = max(total, self._speech_frames)
        rows = slice(self._speech_frames - start // axes.FRAME_HOP, total - start // axes.FRAME_HOP)
        self._speech_frames = total
        return track.probabilities[rows], track.intensity[rows]
