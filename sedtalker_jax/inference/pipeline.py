"""A trained model in the user's hands: speech to emotion track, and on to an animated face."""

from __future__ import annotations

import copy
import dataclasses
import functools
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from sedtalker_jax import axes
from sedtalker_jax.axes import TrianglesArray, VertexSequence, WaveformArray
from sedtalker_jax.data.face_codec import FaceCodec
from sedtalker_jax.data.given_embeddings import checked_embedding
from sedtalker_jax.emotion import EditDictionary, EditSchedule, EmotionTrack
from sedtalker_jax.emotion.labels import ACTIVE, NEUTRAL
from sedtalker_jax.errors import UserError
from sedtalker_jax.face.template import FaceTemplate, check_topology, load_template
from sedtalker_jax.inference.programs import animate_rows, hear_rows
from sedtalker_jax.inference.streaming import PIECE_S, padded_features, stream_motion, style_residual_width
from sedtalker_jax.inference.style import Style, check_style, subject_row
from sedtalker_jax.inference.windows import HeardWindow, Window, split, stitch
from sedtalker_jax.models.sedtalker import SEDTalkerModel
from sedtalker_jax.speech.audio import StoredWaveform
from sedtalker_jax.training.checkpoint import EDIT_DICTIONARY, load_params, read_meta, read_temperature
from sedtalker_jax.training.experiment import model_config

if TYPE_CHECKING:
    from sedtalker_jax.inference.editing import EditedEmotion

GivenEmbedding = Float[np.ndarray, " C"] | None
"""One vector of a whole recording, for a diarizer that reads it (sedtalker_jax.data.given_embeddings)."""

MIN_DURATION_S = 0.1
"""Shorter recordings are refused: they hold less than one phoneme."""


@dataclasses.dataclass(frozen=True)
class Animation:
    """A moving face.

    Attributes:
      vertices: float32 [F, V, 3] in metres.
      faces: int [M, 3] triangles.
      fps: frames per second.
      template: the face at rest.
      track: the emotion track that drove it.
    """

    vertices: VertexSequence
    faces: TrianglesArray
    fps: float
    template: FaceTemplate
    track: EmotionTrack


class SEDTalker:
    """Diarizer, animator and editor of one checkpoint.

    Where the diarizer was trained on given embeddings (config.pipeline.embeddings), it hears nothing: whatever reads emotion
    takes `given_embedding`, the recording's own vector [C]. Elsewhere that must be None.

    Example:
      model = SEDTalker.load("runs/demo")
      track = model.diarize(waveform)
      animation = model.animate(waveform, track)
      happier = model.animate_edited(waveform, model.edit(waveform, EditSchedule((Edit("happy", 0.8),))))
    """

    directory: pathlib.Path | None = None

    def __init__(self, model: SEDTalkerModel, params, codec: FaceCodec | None, meta: dict, temperature: float = 1.0):
        self.model, self.params, self.codec, self.meta, self.temperature = model, params, codec, meta, temperature
        self.labels = tuple(meta["labels"])
        # Without an animator windows need to keep the phase of the speech frames only.
        self.fps = float(meta.get("fps", axes.FRAME_RATE))
        # Twice the length that training saw: long enough for context, short enough to stay near what was learned.
        self.window_s = 2.0 * float(meta["config"]["pipeline"]["max_seconds"])
        self.overlap_s = self.window_s / 4
        # Windows are padded to multiples of this many seconds: two shapes are compiled, whatever the lengths of the files.
        self.pad_to_s = self.window_s / 2

    @classmethod
    def load(cls, checkpoint_dir: str | os.PathLike) -> SEDTalker:
        """Reads the newest checkpoint of a train.py workdir.

        Raises:
          UserError: no finished checkpoint there, or a file of it is missing or damaged.
        """
        directory = pathlib.Path(checkpoint_dir)
        meta, step = read_meta(directory)
        model = SEDTalkerModel(model_config(meta["model"], meta["codec_sizes"]))
        codec = None if meta["codec_sizes"] is None else FaceCodec.load(directory)
        temperature = read_temperature(directory)
        params = jax.tree.map(jnp.asarray, load_params(directory, step=step))
        loaded = cls(model, params, codec, meta, temperature)
        loaded.directory = directory
        return loaded

    def with_style(self, style: Style) -> SEDTalker:
        """This system with faces that move in a style; what is heard stays as it is.

        Raises:
          UserError: the style was fitted to another checkpoint.
        """
        check_style(self, style)
        styled = copy.copy(self)
        styled.params = style.applied(self.params)
        return styled

    def diarize(self, waveform: WaveformArray | StoredWaveform, *, given_embedding: GivenEmbedding = None) -> EmotionTrack:
        """Emotion category probabilities and intensity for every 20 ms frame.

        Args:
          waveform: float [S] at 16 kHz, at least MIN_DURATION_S long; long ones are read in overlapping windows, and may lie in
            a file (speech.store_audio).
          given_embedding: see SEDTalker.

        Raises:
          UserError: the waveform is too short, the checkpoint has no diarizer, or the embedding is not what it reads.
        """
        return self.combine(self.hear(waveform, given_embedding=given_embedding))

    def hear(
        self, waveform: WaveformArray, *, to_animate: bool = False, given_embedding: GivenEmbedding = None
    ) -> list[HeardWindow]:
        """The diarizer's output window by window, before it is put together.

        Args:
          waveform, given_embedding: as of `diarize`.
          to_animate: the windows also hold what the animator hears, so that `motion` runs no encoder again.

        Raises:
          UserError: as `diarize`.
        """
        return self.hear_many([waveform], batch_size=1, to_animate=to_animate, given_embeddings=[given_embedding])[0]

    def diarize_many(self, waveforms: Sequence[WaveformArray], *, batch_size: int = 16) -> list[EmotionTrack]:
        """Tracks of many recordings, read `batch_size` windows at a time; otherwise as `diarize`."""
        return [self.combine(heard) for heard in self.hear_many(waveforms, batch_size=batch_size)]

    def hear_many(
        self,
        waveforms: Sequence[WaveformArray],
        *,
        batch_size: int = 16,
        to_animate: bool = False,
        given_embeddings: Sequence[GivenEmbedding] | None = None,
    ) -> list[list[HeardWindow]]:
        """The windows of many recordings, of each what `hear` gives.

        Args:
          waveforms: float [S] each, of any lengths.
          batch_size: windows that run together. Windows of one padded length share a batch, and one compiled program; the last
            batch of a length is filled up, so that there is no other.
          to_animate: as of `hear`.
          given_embeddings: one of each recording, see SEDTalker.

        Raises:
          UserError: as `diarize`.
        """
        if self.model.config.diarizer is None:
            raise UserError("this checkpoint holds an animator alone and can't hear emotion; give an emotion or a track")
        heard: list[list[HeardWindow | None]] = []
        by_length: dict[int, list[tuple[int, int, Window]]] = {}
        waveforms = [self._checked(waveform) for waveform in waveforms]
        given = [None] * len(waveforms) if given_embeddings is None else given_embeddings
        given = [self.check_embedding(embedding) for embedding in given]
        for row, waveform in enumerate(waveforms):
            windows = split(len(waveform), self.window_s, self.overlap_s, self.fps)
            heard.append([None] * len(windows))
            for number, window in enumerate(windows):
                by_length.setdefault(self._padded_length(window), []).append((row, number, window))
        for items in by_length.values():
            for first in range(0, len(items), batch_size):
                batch = items[first : first + batch_size]
                filled = batch + batch[:1] * (batch_size - len(batch))
                # Padded only when their turn comes: an hour of windows at once would take more room than the hour itself.
                padded, lengths = zip(*(self.padded_window(waveforms[row], window) for row, _, window in filled), strict=True)
                together = jnp.concatenate(padded), jnp.concatenate(lengths)
                if self.model.config.reads_given:
                    together = *together, jnp.stack([given[row] for row, _, _ in filled])
                result = jax.device_get(hear_rows(self.model, self.params, *together, content=to_animate))
                for place, (row, number, window) in enumerate(batch):
                    frames = axes.num_speech_frames(window.stop - window.start)
                    parts = (None if part is None else np.asarray(part[place, :frames]) for part in result)
                    heard[row][number] = HeardWindow(window, *parts)
        return heard

    def combine(self, heard: Sequence[HeardWindow]) -> EmotionTrack:
        """The track of a whole recording from its windows."""
        num_samples = heard[-1].window.stop
        total = axes.num_speech_frames(num_samples)
        starts = [part.first_frame for part in heard]
        whole = stitch([part.logits for part in heard], starts, total).astype(np.float64) / self.temperature
        whole = np.exp(whole - whole.max(axis=1, keepdims=True))
        return EmotionTrack(
            labels=self.labels,
            probabilities=(whole / whole.sum(axis=1, keepdims=True)).astype(np.float32),
            intensity=np.clip(stitch([part.intensity for part in heard], starts, total), 0.0, 1.0),
            duration=num_samples / axes.SAMPLE_RATE,
        )

    @functools.cached_property
    def edit_dictionary(self) -> EditDictionary:
        """The boundaries between emotions, from the workdir.

        Raises:
          UserError: the workdir has none yet; the message says which command makes it.
        """
        if self.directory is None or not (self.directory / EDIT_DICTIONARY).exists():
            place = self.directory or "this model"
            raise UserError(
                f"{place} has no {EDIT_DICTIONARY} yet; "
                f"`python evaluate.py --config=CONFIG --workdir={self.directory or 'DIR'}` fits it to the training data"
            )
        return EditDictionary.load(self.directory / EDIT_DICTIONARY)

    def edit(self, waveform: WaveformArray, schedule: EditSchedule, *, given_embedding: GivenEmbedding = None) -> EditedEmotion:
        """More or less of an emotion over time; see sedtalker_jax.inference.editing.edit, and SEDTalker for the embedding.

        Raises:
          UserError: as `diarize` and `edit_dictionary`, an unknown emotion, a time past the end.
        """
        from sedtalker_jax.inference.editing import edit

        return edit(self, waveform, schedule, given_embedding=given_embedding)

    def animate_edited(
        self,
        waveform: WaveformArray,
        edited: EditedEmotion,
        *,
        template: FaceTemplate | str | os.PathLike | None = None,
        subject: str | None = None,
    ) -> Animation:
        """A face that says the waveform with an edited emotion, and is as `animate` has it where nothing was edited.

        Raises:
          UserError: as `animate`.
        """
        from sedtalker_jax.inference.editing import animate_edited

        return animate_edited(self, waveform, edited, template=template, subject=subject)

    def animate(
        self,
        waveform: WaveformArray,
        track: EmotionTrack | None = None,
        *,
        template: FaceTemplate | str | os.PathLike | None = None,
        use_residual: bool = True,
        subject: str | None = None,
        given_embedding: GivenEmbedding = None,
    ) -> Animation:
        """A face that says the waveform with the emotion of the track.

        Args:
          waveform: float [S] at 16 kHz.
          track: what the face feels; None = what `diarize` hears. A user's track moves the category and its strength; the
            residual style comes from the voice in either case, for which the diarizer is run.
          template: a FaceTemplate of the topology that the model was trained on, the path of a mesh file, the name of one of
            the model's own templates, or None for the model's first one.
          use_residual: False leaves out the style residual of the voice.
          subject: whom of the training subjects the face moves like, see `subjects`; None = nobody in particular, or whose
            style the model was given (`with_style`).
          given_embedding: see SEDTalker.

        Raises:
          UserError: the template's topology is another one, the track has emotions without a face, too short a waveform, an
            unknown subject, an embedding that is not what the diarizer reads, or the checkpoint has no animator.
        """
        waveform = self._checked(waveform)
        face = self.template(template)
        heard = None
        if track is None:
            heard = self.hear(waveform, to_animate=True, given_embedding=given_embedding)
            track = self.combine(heard)
        activations = self.activations(track, len(waveform))
        options = dict(use_residual=use_residual, heard=heard, subject=subject, given_embedding=given_embedding)
        return self.animation(self.motion(waveform, activations, face, **options), face, track)

    def animate_stream(
        self,
        waveform: WaveformArray,
        track: EmotionTrack | None = None,
        *,
        template: FaceTemplate | str | os.PathLike | None = None,
        use_residual: bool = True,
        subject: str | None = None,
        given_embedding: GivenEmbedding = None,
        piece_s: float = PIECE_S,
    ) -> Iterator[Animation]:
        """`animate` of a recording of any length, hours of it, in consecutive stretches of frames.

        Together they are what `animate` gives. Of the frames only one stretch is in memory at a time. The track of the whole
        recording is too, and, where the diarizer is asked for it or for the style, what it says of every speech frame.

        Args:
          waveform, track, template, use_residual, subject, given_embedding: as of `animate`; the waveform may be a memory map.
          piece_s: seconds that the animator makes at once.

        Returns:
          An iterator over animations, each of the frames that follow those before and with the track of the whole recording.

        Raises:
          UserError: as `animate`; or the animator is not causal, or its attention has no window.
        """
        waveform = self._checked(waveform)
        face = self.template(template)
        obstacle = self.model.config.animator.backbone.obstacle_to_streaming
        if obstacle is not None:
            raise UserError(
                f"this checkpoint's animator can't stream: model.animator.{obstacle}; use animate, or train another"
            )
        heard = self.read_windows(waveform, given_embedding, use_residual=use_residual)
        if track is None:
            heard = heard or self.hear(waveform, given_embedding=given_embedding)
            track = self.combine(heard)
        given = self.activations(track, len(waveform)), self.codec.template_code(face.vertices)
        options = dict(use_residual=use_residual, heard=heard, subject=subject_row(self, subject), piece_s=piece_s)
        pieces = stream_motion(self, waveform, *given, **options)
        return (self.animation(piece, face, track) for piece in pieces)

    def activations(self, track: EmotionTrack, num_samples: int) -> Float[np.ndarray, "F K-1"]:
        """Emotion strengths that a track gives the face, at the animation frames of a recording.

        Raises:
          UserError: the track has emotions without a face.
        """
        driven = track.with_labels(self.labels) if track.labels != self.labels else track
        times = np.arange(axes.num_animation_frames(num_samples, self.fps)) / self.fps
        columns = [ACTIVE.index(name) for name in self.labels if name != NEUTRAL]
        return driven.at_times(times, sharpness=self.model.config.sharpness).activation[:, columns]

    def animation(self, coefficients: Float[np.ndarray, "F R"], face: FaceTemplate, track: EmotionTrack) -> Animation:
        """Vertices of normalised motion coefficients on a face."""
        return Animation(
            vertices=self.codec.vertices(face.vertices, coefficients),
            faces=self.codec.space.faces,
            fps=self.fps,
            template=face,
            track=track,
        )

    def motion(
        self,
        waveform: WaveformArray,
        activations: Float[np.ndarray, "F K-1"],
        face: FaceTemplate,
        *,
        use_residual: bool = True,
        heard: Sequence[HeardWindow] | None = None,
        subject: str | None = None,
        given_embedding: GivenEmbedding = None,
    ) -> Float[np.ndarray, "F R"]:
        """Normalised motion coefficients for given emotion strengths at the animation frames.

        A causal animator whose attention has a window takes any recording in one pass, piece by piece (inference.streaming).
        Others take a long one in overlapping windows, whose motions are faded into one another.

        Args:
          waveform: float [S] at 16 kHz.
          activations: [F, K-1], F = num_animation_frames(S, fps).
          face: template of the model's topology.
          use_residual: whether the voice's style residual joins the condition.
          heard: windows whose embeddings give the residual, such as edited ones; None = what the diarizer hears. Windows that
            were heard to be animated give the content too, and no encoder is run.
          subject: see `animate`.
          given_embedding: see SEDTalker; gives the residual where `heard` does not.

        Raises:
          UserError: an unknown subject, or an embedding that is not what the diarizer reads.
        """
        if heard is None:
            heard = self.read_windows(waveform, given_embedding, use_residual=use_residual)
        F = axes.num_animation_frames(len(waveform), self.fps)
        code = self.codec.template_code(face.vertices)
        row = subject_row(self, subject)
        if self.model.config.animator.backbone.obstacle_to_streaming is None:
            options = dict(use_residual=use_residual, heard=heard, subject=row)
            return np.concatenate(list(stream_motion(self, waveform, activations, code, **options)))
        windows = split(len(waveform), self.window_s, self.overlap_s, self.fps)
        pieces, starts = [], []
        for number, window in enumerate(windows):
            padded, length = self.padded_window(waveform, window)
            first = int(round(window.start / axes.SAMPLE_RATE * self.fps))
            frames = axes.num_animation_frames(window.stop - window.start, self.fps)
            room = axes.num_animation_frames(padded.shape[1], self.fps)
            condition = np.zeros((1, room, activations.shape[1]), np.float32)
            part = activations[first : first + frames]
            condition[0, : len(part)] = part
            embedding, content = padded_features(None if heard is None else heard[number], padded.shape[1])
            motion = animate_rows(
                self.model,
                self.params,
                padded,
                length,
                condition,
                jnp.asarray(code)[None],
                jnp.array([frames]),
                fps=self.fps,
                embeddings=embedding,
                contents=content,
                use_residual=use_residual,
                subjects=None if row is None else jnp.asarray(row)[None],
            )
            pieces.append(np.asarray(jax.device_get(motion))[0, :frames])
            starts.append(first)
        return stitch(pieces, starts, F)

    def read_windows(
        self, waveform: WaveformArray, given_embedding: GivenEmbedding, *, use_residual: bool = True
    ) -> list[HeardWindow] | None:
        """What a given embedding says, for the style residual; None where the sound says it, or the animator does not ask.

        Raises:
          UserError: as `hear`.
        """
        asked = self.model.config.reads_given and use_residual and style_residual_width(self.model.config) > 0
        if asked or given_embedding is not None:
            self.check_embedding(given_embedding)
        return self.hear(waveform, given_embedding=given_embedding) if asked else None

    def templates(self) -> tuple[str, ...]:
        """Names of the templates that the model carries."""
        return tuple(self.codec.space.template_names)

    @property
    def subjects(self) -> tuple[str, ...]:
        """Training subjects whose way of moving the animator has learned; none where it was not asked to."""
        return () if self.codec is None else self.codec.subjects

    def _checked(self, waveform: WaveformArray | StoredWaveform) -> WaveformArray | StoredWaveform:
        if not isinstance(waveform, StoredWaveform):
            waveform = np.asarray(waveform, np.float32)
        if waveform.ndim != 1:
            raise UserError(f"the waveform has shape {waveform.shape}; expected one channel, [S]")
        if len(waveform) < MIN_DURATION_S * axes.SAMPLE_RATE:
            seconds = len(waveform) / axes.SAMPLE_RATE
            raise UserError(f"the recording lasts {seconds:.3f} s; at least {MIN_DURATION_S} s are needed to hear speech")
        return waveform

    def check_embedding(self, embedding: GivenEmbedding) -> GivenEmbedding:
        """A recording's own vector as the diarizer reads it; returns and raises as given_embeddings.checked_embedding."""
        diarizer = self.model.config.diarizer
        return checked_embedding(embedding, 0 if diarizer is None else diarizer.given_size)

    def _padded_length(self, window: Window) -> int:
        unit = int(self.pad_to_s * axes.SAMPLE_RATE)
        return -(-(window.stop - window.start) // unit) * unit

    def padded_window(self, waveform: WaveformArray, window: Window) -> tuple[Float[jax.Array, "1 S"], Int[jax.Array, " 1"]]:
        """The samples of a window, padded to one of two lengths, and how many they are."""
        piece = waveform[window.start : window.stop]
        padded = np.zeros((1, self._padded_length(window)), np.float32)
        padded[0, : len(piece)] = piece
        return jnp.asarray(padded), jnp.array([len(piece)], jnp.int32)

    def template(self, template: FaceTemplate | str | os.PathLike | None) -> FaceTemplate:
        """The face to animate; see `animate` for what may be given.

        Raises:
          UserError: no such name, unreadable file, or another topology than the model's.
        """
        if self.codec is None:
            raise UserError("this checkpoint holds a diarizer alone; animating needs one trained with faces too")
        space = self.codec.space
        template = space.template_names[0] if template is None else template
        if not isinstance(template, FaceTemplate):
            path = pathlib.Path(template)
            if str(template) in space.template_names or not (path.suffix or path.exists()):
                return space.template(str(template))
            template = load_template(path)
        check_topology(template, space.topology, space.num_vertices, space.faces)
        return template

    @functools.cached_property
    def read_embedding(self):
        """The diarizer's heads on an embedding [B, T, C], such as an edited one: (logits [B, T, K], intensity [B, T])."""

        def run(params, embedding):
            emotion = self.model.apply({"params": params}, embedding, method=SEDTalkerModel.read_embedding)
            return emotion.logits, emotion.intensity

        return functools.partial(jax.jit(run), self.params)
