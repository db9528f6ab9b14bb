"""The speaking program, with a stand-in for a synthesiser that has the vices of real ones."""

import subprocess
import sys

import pytest

from sedtalker_jax.data.world import speaking
from sedtalker_jax.errors import UserError

_FORGETFUL = """
import os
from sedtalker_jax.data.world import speaking

said = []

def speak(request):
    if request.get("crash"):
        os.kill(os.getpid(), 11)
    if request.get("mute"):
        return speaking.refusal("nothing to say")
    said.append(request["n"])  # state that a second request of the same process would see
    return speaking.answer(bytes([len(said), request["n"]]), 8000, [["a", 0.5]])

speaking.serve(speak)
"""


@pytest.fixture
def program(monkeypatch):
    real = subprocess.Popen

    def start(command, **options):
        assert command[1:3] == ["-P", "-m"]
        return real([sys.executable, "-P", "-c", _FORGETFUL], **options)

    monkeypatch.setattr(speaking.subprocess, "Popen", start)
    with speaking.SpeakingProgram("some.module") as running:
        yield running


def test_every_answer_is_a_function_of_its_request(program):
    for n in (3, 7, 3):
        header, pcm = program.ask({"n": n})
        assert pcm == bytes([1, n]), "the second request saw what the first one left"
        assert header == {"sample_rate": 8000, "num_bytes": 2, "events": [["a", 0.5]]}


def test_a_crash_costs_one_answer_and_not_the_program(program):
    header, pcm = program.ask({"crash": True})
    assert "status" in header["error"] and pcm == b""
    assert program.ask({"mute": True})[0] == {"error": "nothing to say"}
    assert program.ask({"n": 2})[1] == bytes([1, 2])


def test_an_ended_program_is_named(program):
    program.close()
    program.close()
    with pytest.raises(UserError, match="some.module"):
        program.ask({"n": 1})


def test_a_program_that_ends_by_itself_is_named():
    with speaking.SpeakingProgram("sedtalker_jax.no_such_module") as running:
        with pytest.raises(UserError, match="sedtalker_jax.no_such_module"):
            running.ask({"n": 1})
