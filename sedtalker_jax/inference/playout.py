"""Frames of a live session on their way to Live Link, each at its own time."""

from __future__ import annotations

import collections
import queue
import sys
import threading
import time

import numpy as np
from jaxtyping import Float

from sedtalker_jax import axes
from sedtalker_jax.errors import UserError
from sedtalker_jax.face.blendshape_basis import BlendshapeBasis
from sedtalker_jax.face.live_link import LiveLinkSender
from sedtalker_jax.inference.live import LivePiece, LiveSession

SWEEPS = 5
"""Of each step's blendshape weights, which begin with those of the step before: they leave 1% more of the motion than SWEEPS of
face.blendshape_basis do from nothing."""

DRIFT = 1e-3
"""Seconds a second by which a sound card's clock may be slower than this machine's, and what it dropped is made up for."""

PAUSE_S = 1.0
"""Sound that is awaited for longer was paused, and goes on later."""


class Playout(threading.Thread):
    """Shows every frame `delay` seconds after its sound, as evenly as they were spoken, whatever bursts they are made in.

    Attributes:
      late: seconds by which the last frame was shown later than that.
    """

    def __init__(self, sender: LiveLinkSender, basis: BlendshapeBasis, session: LiveSession, delay: float):
        super().__init__(daemon=True)
        self._sender, self._basis, self._delay = sender, basis, delay
        self._rest, self._fps = session.face.vertices, session.talker.fps
        self._weights: Float[np.ndarray, " W"] = np.zeros(len(basis.shapes))
        self._frames: queue.Queue[tuple[int, np.ndarray] | None] = queue.Queue()
        self._began: float | None = None
        self._heard_samples, self._heard_at = 0, 0.0
        # Frames by milliseconds after their sound: sessions last for hours.
        self._delays: collections.Counter[int] = collections.Counter()
        self.late = 0.0
        self._failure: OSError | None = None
        self._unsent = 0
        # Frames are numbered from midnight on, as those of a telephone are.
        now = time.localtime()
        self._first = round((now.tm_hour * 3600 + now.tm_min * 60 + now.tm_sec) * self._fps)

    def heard(self, samples: int, waited: float) -> None:
        """Notes that samples came, `waited` seconds after they were asked for.

        The recording began no later than all its samples last, since none comes before it is spoken: what a recorder kept while
        the model was loading is caught up with.
        """
        now = time.monotonic()
        self._heard_samples += samples
        began = now - self._heard_samples / axes.SAMPLE_RATE
        if self._began is None:
            self._began = began
            self.start()
        elif waited > PAUSE_S:
            self._began = began
        else:
            self._began = min(began, self._began + DRIFT * (now - self._heard_at))
        self._heard_at = now

    def put(self, piece: LivePiece) -> None:
        """Takes frames to show."""
        if not len(piece.vertices):
            return
        weights = self._basis.weights(piece.vertices - self._rest, start=self._weights, sweeps=SWEEPS)
        self._weights = weights[-1]
        for number, row in enumerate(self._basis.arkit_weights(weights)):
            self._frames.put((piece.first_frame + number, row))

    def run(self) -> None:
        """Shows frames until `finish`."""
        assert self._began is not None
        while (item := self._frames.get()) is not None:
            frame, row = item
            spoken = self._began + frame / self._fps
            time.sleep(max(0.0, spoken + self._delay - time.monotonic()))
            delay = time.monotonic() - spoken
            self.late = delay - self._delay
            try:
                self._sender.send(row, self._first + frame)
                self._delays[round(1e3 * delay)] += 1
            except OSError as error:
                if self._failure is None:
                    print(f"--send: {error}; the recording goes on", file=sys.stderr)
                self._failure, self._unsent = error, self._unsent + 1

    def finish(self) -> None:
        """Shows what is left."""
        self._frames.put(None)
        if self._began is not None:
            self.join()
        self._sender.close()

    def report(self) -> str:
        """How it went, in a line.

        Raises:
          UserError: no frame could be sent.
        """
        if not self._delays:
            if self._failure is not None:
                raise UserError(f"--send: {self._failure}")
            return "no frames were sent"
        delays = np.repeat(list(self._delays), list(self._delays.values())) / 1e3
        unsent = f"; {self._unsent} could not be sent ({self._failure})" if self._unsent else ""
        late = int((delays > self._delay + 1.0 / self._fps).sum())
        median, slow = np.percentile(delays, [50, 95])
        return f"{len(delays)} frames sent, {median:.2f} s after their sound (95%: {slow:.2f} s); {late} came late{unsent}"
