import pytest

from sedtalker_jax.emotion import ACTIVE, CANONICAL, CANONICAL_INDEX, COLOURS, PAPER, colour_rgb, resolve_label
from sedtalker_jax.emotion.labels import LEVEL_SCALES, UNKNOWN_COLOUR, colour, corpus_label, corpus_words, label_index
from sedtalker_jax.errors import UserError


def test_canonical_order_is_the_agreed_one():
    assert CANONICAL == ("neutral", "angry", "disgust", "fear", "happy", "sad", "surprise", "upset")
    assert ACTIVE == CANONICAL[1:]
    assert [CANONICAL_INDEX[name] for name in CANONICAL] == list(range(8))


def test_paper_labels_are_seven_alphabetical_canonical_names():
    assert len(PAPER) == 7 and list(PAPER) == sorted(PAPER)
    assert set(CANONICAL) - set(PAPER) == {"surprise"}


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


CORPORA = ("meld", "iemocap", "jl", "esd", "crema_d", "emov_db", "tess", "ravdess", "savee", "zed")


def test_every_corpus_word_is_canonical_or_left_out():
    for corpus in CORPORA:
        mapped = {word: corpus_label(corpus, word) for word in corpus_words(corpus)}
        assert set(mapped.values()) <= {*CANONICAL, None}
        assert "neutral" in mapped.values()
    reached = {corpus_label(corpus, word) for corpus in CORPORA for word in corpus_words(corpus)}
    assert set(CANONICAL) <= reached
    upset = [(corpus, word) for corpus in CORPORA for word in corpus_words(corpus) if corpus_label(corpus, word) == "upset"]
    assert upset == [("iemocap", "fru")]


def test_paper_variant_has_no_surprise():
    assert corpus_label("tess", "ps") == "surprise" and corpus_label("tess", "ps", PAPER) is None
    assert corpus_label("iemocap", "fru", PAPER) == "upset"
    for corpus in CORPORA:
        assert {corpus_label(corpus, word, PAPER) for word in corpus_words(corpus)} <= {*PAPER, None}


def test_unknown_corpora_and_words_are_named():
    with pytest.raises(UserError, match="no labels are known for corpus 'emodb'; .*ravdess"):
        corpus_label("emodb", "W")
    with pytest.raises(UserError, match="savee has no label 'sad'; its labels are n, a"):
        corpus_label("savee", "sad")


def test_level_scales_name_their_levels_weakest_first():
    assert LEVEL_SCALES["ravdess"] == ("normal", "strong") and LEVEL_SCALES["crema_d"] == ("LO", "MD", "HI")
