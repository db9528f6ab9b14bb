"""Emotion labels, tracks over time, their decoding and shaping."""

from sedtalker_jax.emotion.decoding import DECODERS, commit, decode, learn_transition_cost, sharpen, total_variation
from sedtalker_jax.emotion.editing import EditDictionary, EditDirection, EditResult, segment_embeddings
from sedtalker_jax.emotion.formats import SEGMENT_SUFFIXES, Segment, read_rttm, read_segments, write_segments
from sedtalker_jax.emotion.keyframes import KeyFrames
from sedtalker_jax.emotion.labels import (
    ACTIVE,
    CANONICAL,
    CANONICAL_INDEX,
    COLOURS,
    NEUTRAL,
    PAPER,
    colour,
    colour_rgb,
    label_index,
    resolve_label,
)
from sedtalker_jax.emotion.schedule import Edit, EditSchedule
from sedtalker_jax.emotion.shaping import EmotionKeys, ShapedTrack, Shaping, strengths
from sedtalker_jax.emotion.track import EmotionTrack, TrackSamples

__all__ = [
    "ACTIVE",
    "CANONICAL",
    "CANONICAL_INDEX",
    "COLOURS",
    "DECODERS",
    "NEUTRAL",
    "PAPER",
    "SEGMENT_SUFFIXES",
    "Edit",
    "EditDictionary",
    "EditDirection",
    "EditResult",
    "EditSchedule",
    "EmotionKeys",
    "EmotionTrack",
    "KeyFrames",
    "Segment",
    "ShapedTrack",
    "Shaping",
    "TrackSamples",
    "colour",
    "colour_rgb",
    "commit",
    "decode",
    "label_index",
    "learn_transition_cost",
    "read_rttm",
    "read_segments",
    "resolve_label",
    "segment_embeddings",
    "sharpen",
    "strengths",
    "total_variation",
    "write_segments",
]
