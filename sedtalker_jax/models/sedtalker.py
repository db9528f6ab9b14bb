"""The joint model: one speech encoder or two, the diarizer and the animator."""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from sedtalker_jax.axes import (
    FRAME_HOP,
    FRAME_WINDOW,
    FaceFeatures,
    FaceMask,
    Lengths,
    Motion,
    SpeechFeatures,
    SpeechMask,
    Waveforms,
    num_speech_frames,
    speech_frame_times,
)
from sedtalker_jax.emotion.decoding import SHARPNESS
from sedtalker_jax.errors import UserError
from sedtalker_jax.models.acoustics import AcousticsConfig, acoustic_features
from sedtalker_jax.models.animator import Animator, AnimatorConfig, AnimatorState
from sedtalker_jax.models.diarizer import Diarizer, DiarizerConfig, Emotion
from sedtalker_jax.models.emotion_condition import activation, class_normal_projection
from sedtalker_jax.models.emotion_edit import chosen_rows, move_across_boundary
from sedtalker_jax.models.track_source import EDITED_TRACK, PREDICTED_TRACK
from sedtalker_jax.precision import Precision
from sedtalker_jax.randomness import ExampleKeys, fold
from sedtalker_jax.speech import SpeechEncoder, SpeechEncoderConfig, WeightedLayerSum, resample_to_fps
from sedtalker_jax.speech.encoder import trainable_mask
from sedtalker_jax.value_ranges import positive


@dataclasses.dataclass(frozen=True)
class SEDTalkerConfig:
    """Attributes:
    encoder: the speech encoder that diarizer and animator share, or the diarizer's own beside a `content_encoder`. A diarizer
      that reads given embeddings has none: the encoder is the animator's then, and None where that has its own or there is no
      animator.
    diarizer, animator: the two halves; either may be None, in a model of the other alone.
    acoustics: acoustic features joined to the encoder's, for encoders trained from scratch; None = encoder alone.
    precision: number formats.
    sharpness: exponent on the posterior before it becomes an activation.
    content_encoder: a second encoder, from which the animator reads the words; None = `encoder` serves both.
    style_residual: whether the animator also hears the voice's style, the part of the emotion embedding that tells no label.
    """

    encoder: SpeechEncoderConfig | None
    diarizer: DiarizerConfig | None
    animator: AnimatorConfig | None
    acoustics: AcousticsConfig | None = None
    precision: Precision = Precision()
    sharpness: float = SHARPNESS
    content_encoder: SpeechEncoderConfig | None = None
    style_residual: bool = True

    def __post_init__(self):
        positive(self, "sharpness")
        if self.diarizer is None and self.animator is None:
            raise ValueError("a model needs a diarizer, an animator, or both")
        if self.content_encoder is not None and (self.diarizer is None or self.animator is None):
            raise UserError(
                "model.content_encoder and model.content_pretrained are for models of diarizer and animator; "
                "one half alone has model.encoder and model.pretrained"
            )
        hears = self.diarizer is not None and not self.reads_given
        if (self.encoder is not None) != (hears or (self.animator is not None and self.content_encoder is None)):
            raise ValueError("model.encoder is for the half that hears through it, and None without one")
        for name, encoder in self.encoders.items():
            if encoder.frame_grid() != (FRAME_WINDOW, FRAME_HOP):
                window, hop = encoder.frame_grid()
                raise UserError(
                    f"model.{name}: its frames are {window} samples long and {hop} apart; here, as in wav2vec 2.0, HuBERT and "
                    f"WavLM, they must be {FRAME_WINDOW} long and {FRAME_HOP} apart"
                )

    @property
    def reads_given(self) -> bool:
        """Whether the diarizer reads a given embedding of each recording instead of hearing it."""
        return self.diarizer is not None and self.diarizer.given_size > 0

    @property
    def encoders(self) -> dict[str, SpeechEncoderConfig]:
        """The speech encoders by the name of their parameters."""
        both = {"encoder": self.encoder, "content_encoder": self.content_encoder}
        return {name: encoder for name, encoder in both.items() if encoder is not None}


@flax.struct.dataclass
class Speech:
    """Encoded speech: features for each half that they were asked for, at 50 Hz, [B, T, .], and which frames are valid."""

    emotion_features: SpeechFeatures | None
    content_features: SpeechFeatures | None
    mask: SpeechMask


class SEDTalkerModel(nn.Module):
    """Speech in; emotion per frame and motion coefficients out. All methods take padded batches and ignore the padding."""

    config: SEDTalkerConfig

    def setup(self):
        config = self.config
        precision = config.precision
        dtypes = dict(dtype=precision.compute, param_dtype=precision.params)
        if config.encoder is not None:
            self.encoder = SpeechEncoder(config.encoder, **dtypes)
        if config.content_encoder is not None:
            self.content_encoder = SpeechEncoder(config.content_encoder, **dtypes)
        if config.diarizer is not None:
            if not config.reads_given:
                self.emotion_layers = WeightedLayerSum(param_dtype=config.precision.params)
            self.diarizer = Diarizer(config.diarizer, config.precision)
        if config.animator is not None:
            self.content_layers = WeightedLayerSum(param_dtype=config.precision.params)
            self.animator = Animator(config.animator, config.precision)

    def encode(
        self,
        waveforms: Waveforms,
        lengths: Lengths,
        keys: ExampleKeys | None = None,
        *,
        emotion: bool = True,
        content: bool = True,
        given_embedding: Float[Array, "B C"] | None = None,
    ) -> Speech:
        """Runs the encoders that the wanted features come from.

        Args:
          waveforms: [B, S] at 16 kHz.
          lengths: [B] in samples.
          keys: per example, None = deterministic.
          emotion, content: whether the diarizer's features and the animator's are wanted, where the model has that half.
          given_embedding: [B, C], what the diarizer reads where config.reads_given; it is every frame's emotion feature.

        Raises:
          ValueError: emotion is wanted, and the embedding that it is read from is not given.
        """
        config = self.config
        emotion, content = emotion and config.diarizer is not None, content and config.animator is not None
        separate = config.content_encoder is not None
        hears = emotion and not config.reads_given

        def keys_of(part):
            return None if keys is None else fold(keys, part)

        heard = said = None
        if hears or (content and not separate):
            heard = said = self.encoder(waveforms, lengths, keys=keys_of("encoder"))
        if content and separate:
            said = self.content_encoder(waveforms, lengths, keys=keys_of("content_encoder"))
        parts = []
        if config.acoustics is not None and said is not None:
            acoustics = acoustic_features(waveforms, lengths, config.acoustics, keys_of("acoustics"))
            parts.append(acoustics.astype(said.hidden_states.dtype))

        def features(encoded, layers):
            return jnp.concatenate([layers(encoded.hidden_states), *parts], axis=-1)

        num_frames = num_speech_frames(waveforms.shape[1])
        emotion_features = features(heard, self.emotion_layers) if hears else None
        if emotion and config.reads_given:
            if given_embedding is None:
                raise ValueError("this model's diarizer reads given embeddings, and none is given")
            emotion_features = jnp.repeat(given_embedding[:, None], num_frames, axis=1)
        return Speech(
            emotion_features,
            features(said, self.content_layers) if content else None,
            speech_mask(lengths, num_frames) if said is None else said.frame_mask,
        )

    def diarize(self, speech: Speech, keys: ExampleKeys | None = None) -> Emotion:
        """Emotion of every speech frame."""
        return self.diarizer(speech.emotion_features, speech.mask, None if keys is None else fold(keys, "diarizer"))

    def read_embedding(self, embedding: Float[Array, "B T C"]) -> Emotion:
        """What the diarizer's heads say of an embedding, such as an edited one."""
        return self.diarizer.read(embedding)

    def residual(self, emotion: Emotion) -> Float[Array, "B T C"] | None:
        """P e_t: the part of the embedding that the category head can't see. No gradient flows back.

        None in a model without style_residual.
        """
        if not self.config.style_residual:
            return None
        kernel = self.variables["params"]["diarizer"]["heads"]["category"]["kernel"]
        projection = class_normal_projection(jax.lax.stop_gradient(kernel).astype(emotion.embedding.dtype))
        return jax.lax.stop_gradient(emotion.embedding) @ projection

    def animate(
        self,
        speech: Speech,
        activations: Float[Array, "B F K-1"],
        residual: Float[Array, "B T C"] | None,
        template_code: Float[Array, "B Q"],
        fps: Float[Array, "B"],
        mask: FaceMask,
        keys: ExampleKeys | None = None,
        subject: Int[Array, "B"] | None = None,
    ) -> Motion:
        """Motion coefficients in normalised units, [B, F, R].

        Args:
          speech: encoded speech.
          activations: [B, F, K-1] emotion strengths at the animation frames.
          residual: [B, T, C] at the speech frames, or None.
          template_code: [B, Q].
          fps: [B] animation frames per second.
          mask: [B, F], False = padding.
          keys: per example, None = deterministic.
          subject: [B] FaceCodec.subject_index; None = unknown ones.
        """
        content, residual = self.face_features(speech, residual, fps, mask.shape[1])
        return self.animator(
            content,
            mask,
            activations,
            residual,
            template_code,
            None if keys is None else fold(keys, "animator"),
            subject=subject,
        )

    def face_features(
        self, speech: Speech, residual: Float[Array, "B T C"] | None, fps: Float[Array, "B"], num_frames: int
    ) -> tuple[FaceFeatures, Float[Array, "B F C"] | None]:
        """What the animator hears, at `num_frames` animation frames: content features, and the residual if there is one."""
        content = resample_to_fps(speech.content_features, speech.mask, fps, num_frames)
        return content, None if residual is None else resample_to_fps(residual, speech.mask, fps, num_frames)

    def animate_piece(
        self,
        content: FaceFeatures,
        activations: Float[Array, "B F K-1"],
        residual: Float[Array, "B F C"] | None,
        template_code: Float[Array, "B Q"],
        mask: FaceMask,
        state: AnimatorState,
        subject: Int[Array, "B"] | None = None,
    ) -> tuple[Motion, AnimatorState]:
        """Motion coefficients of the next piece of a recording, and the state after it. For causal animators.

        However a recording is cut, the pieces' motions are that of the whole up to rounding. Every piece but the last has a
        multiple of the animator's frame_stacking valid frames.

        Args:
          content, residual: [B, F, .] as `face_features` gives them, at this piece's animation frames.
          activations: [B, F, K-1] emotion strengths.
          template_code: [B, Q].
          mask: [B, F], False = padding, at the end.
          state: `initial_state` at the beginning of a recording, then what the piece before returned.
          subject: [B] FaceCodec.subject_index; None = unknown ones.
        """
        return self.animator(content, mask, activations, residual, template_code, state=state, subject=subject)

    @nn.nowrap
    def initial_state(self, batch_size: int) -> AnimatorState:
        """The animator's state at the beginning of a recording.

        Raises:
          ValueError: it is not causal, or attends without a window.
        """
        return Animator(self.config.animator, self.config.precision).initial_state(batch_size)

    def __call__(self, batch: dict[str, Any], keys: dict[str, ExampleKeys] | None = None) -> dict[str, Any]:
        """The training forward pass over a joint batch.

        Args:
          batch: {"speech": {...}, "face": {...}}, either may be absent. A face part without a waveform is animated from the
            speech part of the same rows (sets with voice and face together), which is then encoded once.
          keys: per-example keys of either part, None = deterministic.

        Returns:
          {"emotion": Emotion of the speech part, "levels": [B, T, J] ordinal logits where the part has levels, "motion":
          [B, F, R] of the face part and "activation": [B, F, K-1] that it was made from}, as far as present.
        """
        keys = keys or {}
        outputs, speech, emotion, voices = {}, None, None, None
        hears = self.config.diarizer is not None
        if "speech" in batch:
            part = batch["speech"]
            moves_face = "face" in batch and "waveform" not in batch["face"]
            sound = part["waveform"], part["lengths"], keys.get("speech")
            speech = self.encode(*sound, content=moves_face, given_embedding=part.get("given_embedding"))
            emotion = self.diarize(speech, keys.get("speech"))
            outputs["emotion"] = emotion
            if "level" in part and self.config.diarizer.level_scales:
                outputs["levels"] = self.diarizer.levels(emotion.intensity_logits, part["level_scale"])
            voices = speech.mask, emotion.embedding
        if "face" in batch:
            part = batch["face"]
            if "waveform" in part:
                sound = part["waveform"], part["lengths"], keys.get("face")
                speech = self.encode(*sound, given_embedding=part.get("given_embedding"))
                emotion = self.diarize(speech, keys.get("face")) if hears else None
            mask = jnp.arange(part["motion"].shape[1])[None, :] < part["num_frames"][:, None]
            activations = part["activation"] if emotion is None else self._condition(part, speech, emotion, mask)
            residual = None if emotion is None else self.residual(emotion)
            if "edit_target" in part and emotion is not None:
                edited = part["track_source"] == EDITED_TRACK
                activations = chosen_rows(
                    edited, self._edited(part, *(voices or (speech.mask, emotion.embedding))), activations
                )
            outputs["activation"] = activations
            outputs["motion"] = self.animate(
                speech,
                activations,
                residual,
                part["template_code"],
                part["fps"],
                mask,
                keys.get("face"),
                subject=part.get("subject"),
            )
        return outputs

    def _condition(self, part, speech: Speech, emotion: Emotion, mask: FaceMask) -> Float[Array, "B F K-1"]:
        # The animator's loss does not train the diarizer: it would bend what is heard towards what is easily shown.
        predicted = jax.lax.stop_gradient(activation(emotion.logits, emotion.intensity, sharpness=self.config.sharpness))
        predicted = resample_to_fps(predicted, speech.mask, part["fps"], mask.shape[1])
        return chosen_rows(part["track_source"] == PREDICTED_TRACK, predicted, part["activation"].astype(predicted.dtype))

    def _edited(self, part, mask: SpeechMask, embedding: Float[Array, "B T C"]) -> Float[Array, "B F K-1"]:
        """What the heads read from an edit of the embeddings of the speech part's voice in the same row.

        Where faces bring their own sound, such as neutral voices, that is another recording: a draw from what the diarizer
        says of emotional voices, as it is at this step. The edit leaves the residual alone, since P removes the normals.
        """
        embedding = jax.lax.stop_gradient(embedding)
        head = jax.lax.stop_gradient(self.variables["params"]["diarizer"]["heads"]["category"])
        edit = part["edit_target"], part["edit_margin"], part["edit_span"]
        times = jnp.asarray(speech_frame_times(embedding.shape[1]))
        moved = self.read_embedding(move_across_boundary(embedding, mask, head["kernel"], head["bias"], *edit, times))
        read = activation(moved.logits, moved.intensity, sharpness=self.config.sharpness)
        return resample_to_fps(jax.lax.stop_gradient(read), mask, part["fps"], part["motion"].shape[1])


def speech_mask(lengths: Lengths, num_frames: int) -> SpeechMask:
    """[B, T] which of `num_frames` speech frames lie within recordings of `lengths` samples."""
    return jnp.arange(num_frames)[None, :] < num_speech_frames(lengths)[:, None]


def trainable_parameters(config: SEDTalkerConfig, params: dict[str, Any]) -> dict[str, Any]:
    """A tree like `params` (the model's own) of bools: False for what the encoders' configs freeze."""
    masks = {name: trainable_mask(encoder, params[name]) for name, encoder in config.encoders.items()}
    return jax.tree.map(lambda _: True, params) | masks
