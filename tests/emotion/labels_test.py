import pytest

from sedtalker_jax.emotion import ACTIVE, CANONICAL, CANONICAL_INDEX, COLOURS, LABEL_SETS, PAPER, colour_rgb, resolve_label
from sedtalker_jax.emotion.labels import UNKNOWN_COLOUR, colour, label_index
from sedtalker_jax.errors import UserError


def test_canonical_order_is_the_agreed_one():
    assert CANONICAL == ("neutral", "angry", "disgust", "fear", "happy", "sad", "surprise", "upset")
    assert ACTIVE == CANONICAL[1:]
    assert [CANONICAL_INDEX[name] for name in CANONICAL] == list(range(8))


def test_paper_labels_are_seven_alphabetical_canonical_names():
    assert len(PAPER) == 7 and list(PAPER) == sorted(PAPER)
    assert set(CANONICAL) - set(PAPER) == {"surprise"}
    assert LABEL_SETS["paper"] is PAPER


def test_every_emotion_has_its_own_colour():
    assert set(COLOURS) == set(CANONICAL)
    assert len({colour_rgb(name) for name in CANONICAL}) == 8
    assert colour("no such emotion") == UNKNOWN_COLOUR
    assert colour_rgb("angry") == (0xD6, 0x27, 0x28)


@pytest.mark.parametrize("given, expected", [("happy", "happy"), ("Happy ", "happy"), ("anger", "angry"), ("FEARFUL", "fear")])
def test_names_people_use_are_understood(given, expected):
    assert resolve_label(given) == expected


def test_unknown_names_say_what_is_known_and_near():
    with pytest.raises(UserError, match="did you mean 'surprise'.*neutral, angry"):
        resolve_label("surprice")
    with pytest.raises(UserError, match="unknown emotion 'surprised'"):
        resolve_label("surprised", PAPER)


def test_repeated_labels_are_refused():
    with pytest.raises(UserError, match="repeated: sad"):
        label_index(["sad", "happy", "sad"])
