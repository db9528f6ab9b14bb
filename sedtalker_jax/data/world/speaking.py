"""A synthesiser as a program of its own: the loop inside it, and the handle that the world holds.

Synthesisers keep state between calls (espeak-ng says one sentence in other lengths each time), and one of them is under the
GPL. So each is loaded by a program that speaks nothing itself: it forks once per request, which makes every answer a function
of its request alone.

Protocol. Request: one line of JSON. Answer: one line of JSON, either {"error": text} or {"sample_rate", "num_bytes", "events"},
followed by num_bytes bytes of little-endian int16 PCM.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from sedtalker_jax.errors import UserError

_ROOT = Path(__file__).resolve().parents[3]


def serve(speak: Callable[[dict], bytes]) -> None:
    """Answers the requests on stdin, each in a fork, until it is closed. `speak` makes an answer with `answer` or `refusal`."""
    for line in sys.stdin.buffer:
        sys.stdout.buffer.write(_speak_in_fork(speak, json.loads(line)))
        sys.stdout.buffer.flush()


def answer(pcm: bytes, sample_rate: int, events: list[list]) -> bytes:
    """The bytes of a spoken answer."""
    header = {"sample_rate": sample_rate, "num_bytes": len(pcm), "events": events}
    return (json.dumps(header) + "\n").encode() + pcm


def refusal(text: str) -> bytes:
    """The bytes of an answer that says why nothing was spoken."""
    return (json.dumps({"error": text}) + "\n").encode()


def _speak_in_fork(speak: Callable[[dict], bytes], request: dict) -> bytes:
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(read_end)
            with os.fdopen(write_end, "wb") as pipe:
                pipe.write(speak(request))
            status = 0
        finally:
            os._exit(status)  # no atexit, no flush of what the parent has buffered
    os.close(write_end)
    with os.fdopen(read_end, "rb") as pipe:
        spoken = pipe.read()
    _, status = os.waitpid(child, 0)
    return refusal(f"the speaking process ended with status {status}") if status != 0 else spoken


class SpeakingProgram:
    """A running server of requests. Closes with the interpreter, or as a context manager.

    Args:
      module: the program's module name.
    """

    def __init__(self, module: str) -> None:
        self._module = module
        # -P and the root alone: what lies in the working directory can't take the place of a module.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(_ROOT)},
        )
        atexit.register(self.close)

    def ask(self, request: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
        """(header, PCM bytes) of the answer; a header with "error" comes without PCM.

        Raises:
          UserError: the program has ended.
        """
        line = b""
        if self._process.poll() is None:
            with contextlib.suppress(BrokenPipeError):  # it ended meanwhile
                self._process.stdin.write((json.dumps(request) + "\n").encode())
                self._process.stdin.flush()
            line = self._process.stdout.readline()
        if not line:
            raise UserError(f"the speech program ended; `python -m {self._module}` shows why")
        header = json.loads(line)
        return header, b"" if "error" in header else self._process.stdout.read(header["num_bytes"])

    def close(self) -> None:
        """Ends the program; later calls do nothing."""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait(timeout=10)
        self._process.stdout.close()
        atexit.unregister(self.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_) -> None:
        self.close()
