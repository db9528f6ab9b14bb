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

CANONICAL_INDEX: Mapping[str, int] = MappingProxyType({name: index for index, name in enumerate(CANONICAL)})
"""Emotion name -> index into CANONICAL."""

_CANONICAL_OF: Mapping[str, Mapping[str, str | None]] = MappingProxyType(
    {
        "meld": {
            "neutral": "neutral",
            "joy": "happy",
            "surprise": "surprise",
            "anger": "angry",
            "sadness": "sad",
            "disgust": "disgust",
            "fear": "fear",
        },
        # Excited joins happy, as in the usual four-class task; frustration is the only source of "upset" anywhere.
        "iemocap": {
            "neu": "neutral",
            "hap": "happy",
            "exc": "happy",
            "ang": "angry",
            "sad": "sad",
            "fru": "upset",
            "sur": "surprise",
            "fea": "fear",
            "dis": "disgust",
            "oth": None,
            "xxx": None,
        },
        "jl": {
            "neutral": "neutral",
            "happy": "happy",
            "excited": "happy",
            "angry": "angry",
            "sad": "sad",
            "anxious": None,
            "apologetic": None,
            "assertive": None,
            "concerned": None,
            "encouraging": None,
            "pensive": None,
            "worried": None,
            "enthusiastic": None,
        },
        "esd": {"neutral": "neutral", "angry": "angry", "happy": "happy", "sad": "sad", "surprise": "surprise"},
        "crema_d": {"NEU": "neutral", "ANG": "angry", "DIS": "disgust", "FEA": "fear", "HAP": "happy", "SAD": "sad"},
        "emov_db": {"neutral": "neutral", "amused": "happy", "angry": "angry", "disgusted": "disgust", "sleepy": None},
        "tess": {
            "neutral": "neutral",
            "angry": "angry",
            "disgust": "disgust",
            "fear": "fear",
            "happy": "happy",
            "ps": "surprise",
            "sad": "sad",
        },
        # Calm is neither neutral nor one of the eight; the reader's option `calm` can make it neutral.
        "ravdess": {
            "neutral": "neutral",
            "calm": None,
            "happy": "happy",
            "sad": "sad",
            "angry": "angry",
            "fearful": "fear",
            "disgust": "disgust",
            "surprised": "surprise",
        },
        "savee": {
            "n": "neutral",
            "a": "angry",
            "d": "disgust",
            "f": "fear",
            "h": "happy",
            "sa": "sad",
            "su": "surprise",
        },
        "zed": {"neutral": "neutral", "happy": "happy", "sad": "sad", "angry": "angry"},
    }
)

LEVEL_SCALES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "ravdess": ("normal", "strong"),
        "crema_d": ("LO", "MD", "HI"),
        "crema_d_voice": ("20", "50", "80"),
        "mead": ("level_1", "level_2", "level_3"),
    }
)
"""Ordinal intensity scales: name -> levels, weakest first. They can't be compared: each needs thresholds of its own.

crema_d is what the actor was asked for; crema_d_voice is the mean rating of listeners who heard the voice only, put to the
nearest of the three levels that the raters' form showed.
"""

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


def corpus_label(corpus: str, word: str, labels: Sequence[str] = CANONICAL) -> str | None:
    """The member of `labels` that a corpus's own word stands for; None where the word is none of them ("sleepy").

    With labels=PAPER the map is SEDTalker's seven: surprise becomes None.

    Raises:
      UserError: the table does not know the corpus or the word.
    """
    if corpus not in _CANONICAL_OF:
        raise UserError(f"no labels are known for corpus '{corpus}'; the known ones are {', '.join(_CANONICAL_OF)}")
    table = _CANONICAL_OF[corpus]
    if word not in table:
        raise UserError(f"{corpus} has no label '{word}'; its labels are {', '.join(table)}")
    return table[word] if table[word] in labels else None


def corpus_words(corpus: str) -> tuple[str, ...]:
    """Every word that a corpus uses as a label."""
    return tuple(_CANONICAL_OF[corpus])


def colour(label: str) -> str:
    """sRGB hex colour of an emotion; UNKNOWN_COLOUR for any other label."""
    return COLOURS.get(label, UNKNOWN_COLOUR)


def colour_rgb(label: str) -> tuple[int, int, int]:
    """The colour of an emotion as three integers from 0 to 255, for image buffers."""
    code = colour(label)
    return int(code[1:3], 16), int(code[3:5], 16), int(code[5:7], 16)
