"""Blendshape weights as Epic's Live Link Face records and sends them: ARKit's 52 weights and nine angles a frame.

Unreal, MetaHuman and add-ons of Blender, Maya and Unity take them, and a telephone makes them: as the rows of a .csv, whose
columns go by their names, or as datagrams while somebody speaks. Angles of head and eyes are written as zero and not read,
since nothing here turns the head, and eyes turn by weights.
"""

from __future__ import annotations

import csv
import fractions
import os
import socket
import struct
import uuid
from pathlib import Path

import numpy as np
from jaxtyping import Float

from sedtalker_jax.emotion.formats import replace_when_complete
from sedtalker_jax.errors import UserError
from sedtalker_jax.face.blendshape_basis import BlendshapeBasis
from sedtalker_jax.face.rig import ARKIT_NAMES, NUM_ARKIT

# The app has right before left where ARKit's documentation has left before right.
_PLACES = {"jawLeft": "jawRight", "jawRight": "jawLeft", "mouthLeft": "mouthRight", "mouthRight": "mouthLeft"}
ORDER = tuple(_PLACES.get(name, name) for name in ARKIT_NAMES)
RATES = (24, 25, 30, 48, 50, 60)
"""Frames per second at which recordings are read."""

PORT = 11111
"""Where Unreal listens unless told otherwise."""

PACKET_VERSION = 6

ANGLES = tuple(f"{part}{angle}" for part in ("Head", "LeftEye", "RightEye") for angle in ("Yaw", "Pitch", "Roll"))


def write_live_link(path: str | os.PathLike, basis: BlendshapeBasis, weights: Float[np.ndarray, "F W"], fps: float) -> None:
    """Writes weights, whole or not at all. A shape of ARKit's that the basis lacks is 0; shapes that ARKit lacks are left out.

    Args:
      basis: whose weights they are.
      weights: 0 to 1.
      fps: frames per second; the time code counts frames of the nearest whole rate.

    Raises:
      UserError: no shape with a name of ARKit's, or the place can't be written.
    """
    columns = [ARKIT_NAMES.index(name) for name in ORDER]
    with replace_when_complete(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["Timecode", "BlendShapeCount", *(name[0].upper() + name[1:] for name in ORDER), *ANGLES])
        for frame, row in enumerate(basis.arkit_weights(weights)[:, columns]):
            values = [f"{value:.5f}" for value in row]
            rows.writerow([_time_code(frame, fps), len(ORDER) + len(ANGLES), *values, *["0"] * len(ANGLES)])


def read_live_link(path: str | os.PathLike) -> tuple[Float[np.ndarray, "F 52"], float]:
    """Reads a recording of Live Link Face: ARKit's weights in ARKit's order, in [0, 1], and frames per second.

    Rows lie at their time codes, which skip where the telephone was late; the result is even, on straight lines between rows.
    Its rate is the least of RATES that has as many frames in a second as the time codes count. A row without weights, which
    the app writes while it sees no face, takes its time like any other: the sound goes on too. Before the first face and after
    the last one the face rests as it does there. A column that is missing is zero.

    Raises:
      UserError: missing file, no table with Timecode and weights of ARKit's names, or a row that holds no numbers.
    """
    source = Path(path)
    try:
        with source.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            header = [name.strip().lower() for name in next(reader, [])]
            columns = [(index, header.index(name.lower())) for index, name in enumerate(ARKIT_NAMES) if name.lower() in header]
            if "timecode" not in header or not columns:
                raise UserError(f"{source}: no recording of Live Link Face: it needs Timecode and columns such as JawOpen")
            place, last = header.index("timecode"), max(column for _, column in columns)
            codes, seen, rows = [], [], []
            for number, cells in enumerate(reader, 2):
                faceless = len(cells) <= last or not cells[columns[0][1]].strip()
                try:
                    code = [float(part) for part in cells[place].split(":")]
                    row = np.zeros(NUM_ARKIT)
                    if not faceless:
                        row[[index for index, _ in columns]] = [float(cells[column]) for _, column in columns]
                except (ValueError, IndexError):
                    code = []
                if len(code) == 4 and np.isfinite([*code, *row]).all():
                    codes.append(code)
                    seen.append(not faceless)
                    rows.append(row)
                elif not faceless:
                    raise UserError(f"{source}, line {number}: weights must be numbers and Timecode HH:MM:SS:FF")
    except FileNotFoundError:
        raise UserError(f"{source}: no such file") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{source}: no table in UTF-8 ({error})") from None
    if not any(seen):
        raise UserError(f"{source}: no row has weights: no face was seen")
    hours, minutes, seconds, frames = np.array(codes).T
    rate = next((rate for rate in RATES if frames.max() < rate), RATES[-1])
    times = hours * 3600 + minutes * 60 + seconds + frames / rate
    # Past midnight the clock begins anew.
    times += 86_400 * np.cumsum(np.diff(times, prepend=times[0]) < -43_200)
    times -= times.min()
    wanted = np.arange(round(times.max() * rate) + 1) / rate
    known, first = np.unique(times[seen], return_index=True)
    weights = np.stack([np.interp(wanted, known, column) for column in np.array(rows)[seen][first].T], axis=1)
    return np.clip(weights, 0.0, 1.0), float(rate)


class LiveLinkSender:
    """Sends faces to Unreal's Live Link, one datagram a frame, as the telephone does.

    The layout is that of version 6, which Unreal's ARKit Live Link source reads: the version in a byte; names of device and
    subject, each after its length; frame, part of a frame, and rate as a fraction; the number of values in a byte, and the
    values: ARKit's weights in ARKit's order, then the angles. Numbers are big-endian and of 32 bits.
    """

    def __init__(self, host: str, port: int = PORT, *, subject: str = "sedtalker", fps: float):
        """Args:
          host, port: where the program listens.
          subject: what Live Link calls the face there.
          fps: frames per second.

        Raises:
          UserError: no such host, or a subject without a name.
        """
        try:
            name = subject.encode()
        except UnicodeEncodeError:
            name = b""
        if not name:
            raise UserError(f"{subject!r}: no name that Live Link could call the face")
        try:
            places = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
        except (OSError, UnicodeError, OverflowError) as error:
            raise UserError(f"{host}:{port}: no such place to send to ({error})") from None
        # Unreal listens on IPv4, and localhost is ::1 first on many machines.
        family, kind, _, _, self._address = min(places, key=lambda place: place[0] != socket.AF_INET)
        self._socket = socket.socket(family, kind)
        self._names = b"".join(struct.pack(">i", len(text)) + text for text in (str(uuid.uuid4()).encode(), name))
        rate = fractions.Fraction(fps).limit_denominator(1001)
        self._rate = struct.pack(">ii", rate.numerator, rate.denominator)

    def send(self, arkit: Float[np.ndarray, " 52"], frame: int) -> None:
        """Sends one face.

        Args:
          arkit: weights in ARKit's order, in [0, 1].
          frame: its number.

        Raises:
          OSError: the network is down.
        """
        values = [*(float(value) for value in arkit), *[0.0] * len(ANGLES)]
        head = struct.pack(">B", PACKET_VERSION) + self._names + struct.pack(">if", frame, 0.0) + self._rate
        self._socket.sendto(head + struct.pack(f">B{len(values)}f", len(values), *values), self._address)

    def close(self) -> None:
        """Lets go of the socket."""
        self._socket.close()


def _time_code(frame: int, fps: float) -> str:
    """HH:MM:SS:FF.mmm, where FF counts frames of the nearest whole rate."""
    rate = max(1, round(fps))
    seconds, part = divmod(frame / fps, 1.0)
    thousandths = min(round(part * rate * 1000), rate * 1000 - 1)
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours:02d}:{rest // 60:02d}:{rest % 60:02d}:{thousandths // 1000:02d}.{thousandths % 1000:03d}"
