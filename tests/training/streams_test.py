"""Which records feed which part of a batch."""

import pytest
from ml_collections import ConfigDict

from sedtalker_jax.data import prepare
from sedtalker_jax.errors import UserError
from sedtalker_jax.training.streams import held_out_directories, streams_of
from tests.data.corpora.layouts import LAYOUTS

PIPELINE = ConfigDict(dict(joins=ConfigDict()))


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    base = tmp_path_factory.mktemp("corpora")
    for name in ("savee", "tess"):
        (base / name).mkdir()
        LAYOUTS[name](base / name)
        prepare.prepare(name, base / name, base / "records" / name, progress=False)
    return ",".join(str(base / "records" / name) for name in ("savee", "tess"))


def test_a_corpus_that_is_held_out_feeds_no_stream(corpora):
    savee, tess = corpora.split(",")
    (stream,) = streams_of(ConfigDict(dict(speech=corpora, face="", held_out="tess")), PIPELINE)
    assert stream.directories == (savee,) and stream.parts == ("speech",)
    assert held_out_directories(ConfigDict(dict(speech=corpora, held_out="tess"))) == (tess,)
    (everything,) = streams_of(ConfigDict(dict(speech=corpora, held_out="")), PIPELINE)
    assert everything.directories == (savee, tess) and held_out_directories(ConfigDict(dict(speech=corpora))) == ()


def test_a_corpus_that_is_not_there_can_not_be_held_out(corpora):
    with pytest.raises(UserError, match="no directory holds 'meld' to leave out; there are savee, tess"):
        streams_of(ConfigDict(dict(speech=corpora, held_out="meld")), PIPELINE)


def test_joins_are_for_voices_without_faces():
    voices, faces = streams_of(ConfigDict(dict(speech="a", face="b")), PIPELINE)
    assert (voices.parts, faces.parts) == (("speech",), ("face",))
    assert voices.pipeline.joins is not None and faces.pipeline.joins is None
    with pytest.raises(ValueError, match="directory, or speech"):
        streams_of(ConfigDict(dict(directory="a", speech="b")), PIPELINE)


BOTH = ("diarizer", "animator")


@pytest.mark.parametrize(
    ("named", "halves", "parts"),
    [
        ({"directory": "a"}, BOTH, [("speech", "face")]),
        ({"directory": "a"}, BOTH[:1], [("speech",)]),
        ({"directory": "a"}, BOTH[1:], [("face",)]),
        ({"speech": "a", "face": "b"}, BOTH, [("speech",), ("face",)]),
    ],
)
def test_every_half_of_a_model_takes_the_part_that_it_learns_from(named, halves, parts):
    streams = streams_of(ConfigDict(named), PIPELINE, halves)
    assert [stream.parts for stream in streams] == parts
    # Voices without their faces are joined, wherever they come from.
    assert all((stream.pipeline.joins is not None) == (stream.parts == ("speech",)) for stream in streams)


@pytest.mark.parametrize(
    ("named", "halves", "message"),
    [
        ({"face": "a"}, BOTH, r"no voices, from which model.diarizer learns; .*configs/animator.py"),
        ({"speech": "a"}, BOTH, r"no faces, from which model.animator learns; .*configs/diarizer.py"),
        ({"speech": "a", "face": "b"}, BOTH[:1], "config.data.face: the model has no animator"),
        ({"speech": "a", "face": "b"}, BOTH[1:], "config.data.speech: the model has no diarizer"),
    ],
)
def test_halves_without_records_and_records_without_a_half_are_refused(named, halves, message):
    with pytest.raises(UserError, match=message):
        streams_of(ConfigDict(named), PIPELINE, halves)
    # Scoring takes what there is.
    assert len(streams_of(ConfigDict(named), PIPELINE)) == len(named)
