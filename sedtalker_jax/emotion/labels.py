"""Emotion names: the canonical order, other label sets, aliases that people use, and one colour for each.

Labels travel with the data by name. An index means something only together with the tuple of names it points into.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from sedtalker_jax.errors import UserError

NEUTRAL = "neutral"

CANONICAL: tuple[str, ...] = ("neutral", "angry", "disgust", "fear", "happy", "sad", "surprise", "upset")
"""The K = 8 emotions in the order of every probability array. Neutral is a class of its own and comes first."""

ACTIVE: tuple[str, ...] = CANONICAL[1:]
"""The K - 1 non-neutral emotions: the columns of an activation array."""

PAPER: tuple[str, ...] = ("angry", "disgust", "fear", "happy", "neutral", "sad", "upset")
"""SEDTalker's seven classes in its own, alphabetical, order (arXiv 2604.13335): there is no surprise."""

LABEL_SETS: Mapping[str, tuple[str, ...]] = MappingProxyType({"canonical": CANONICAL, "paper": PAPER})
"""Label sets by name, for configs."""

CANONICAL_INDEX: Mapping[str, int] = MappingProxyType({name: index for index, name in enumerate(CANONICAL)})
"""Emotion name -> index into CANONICAL."""

COLOURS: Mapping[str, str] = MappingProxyType(
    {
        "neutral": "#9aa0a6",
        "angry": "#d62728",
        "disgust": "#6b8e23",
        "fear": "#7b4fa3",
        "happy": "#f2b701",
        "sad": "#2f6fb5",
        "surprise": "#f07fb0",
        "upset": "#8c564b",
    }
)
"""Emotion name -> sRGB hex colour, the same in every plot, strip and video."""

UNKNOWN_COLOUR = "#e3e3e3"
"""Colour of time without a label, and of labels outside COLOURS."""

_ALIASES = {
    "anger": "angry",
    "calm": "neutral",
    "disgusted": "disgust",
    "fearful": "fear",
    "afraid": "fear",
    "happiness": "happy",
    "joy": "happy",
    "sadness": "sad",
    "surprised": "surprise",
    "frustrated": "upset",
    "frustration": "upset",
}


def label_index(labels: Sequence[str]) -> dict[str, int]:
    """Maps each name in `labels` to its position.

    Raises:
      UserError: when a name occurs twice, since an index could then mean either.
    """
    index = {name: position for position, name in enumerate(labels)}
    if len(index) != len(labels):
        repeated = sorted({name for name in labels if list(labels).count(name) > 1})
        raise UserError(f"emotion labels must be unique; repeated: {', '.join(repeated)}")
    return index


def resolve_label(name: str, labels: Sequence[str] = CANONICAL) -> str:
    """The member of `labels` that `name` stands for: the name itself in any case, or a common synonym ("anger").

    Raises:
      UserError: when nothing matches; the message lists the known labels and the nearest one.
    """
    plain = name.strip()
    if plain in labels:
        return plain
    folded = plain.lower()
    if folded in labels:
        return folded
    if _ALIASES.get(folded) in labels:
        return _ALIASES[folded]
    near = difflib.get_close_matches(folded, list(labels), n=1)
    hint = f" (did you mean '{near[0]}'?)" if near else ""
    raise UserError(f"unknown emotion '{name}'{hint}; the known ones are {', '.join(labels)}")


def colour(label: str) -> str:
    """sRGB hex colour of an emotion; UNKNOWN_COLOUR for any other label."""
    return COLOURS.get(label, UNKNOWN_COLOUR)


def colour_rgb(label: str) -> tuple[int, int, int]:
    """The colour of an emotion as three integers from 0 to 255, for image buffers."""
    code = colour(label)
    return int(code[1:3], 16), int(code[3:5], 16), int(code[5:7], 16)
