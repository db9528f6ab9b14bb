"""Emotion segments in the file formats of other tools: RTTM, CSV, JSON, Praat TextGrid and Audacity labels.

Each writer has a reader for what the format can hold. RTTM has no place for intensity: its confidence column
means something else, so it stays <NA> and intensity reads back as NaN.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sedtalker_jax.errors import UserError

SEGMENT_SUFFIXES = (".json", ".csv", ".rttm", ".TextGrid", ".txt")
"""Suffixes that write_segments and read_segments know; .txt is an Audacity label track. Case does not matter."""

JSON_FORMAT = "sedtalker_jax emotion track"

ROUNDED_S = 1e-3 + 1e-6
"""Seconds by which touching segments may overlap in a file: pyannote rounds a start and a duration to milliseconds each."""


class Segment(NamedTuple):
    """A stretch of one emotion: start and end in seconds, label, mean intensity in [0, 1] (NaN when unknown)."""

    start: float
    end: float
    label: str
    intensity: float = math.nan


@contextlib.contextmanager
def replace_when_complete(path: str | os.PathLike) -> Iterator[Path]:
    """Gives a temporary path beside `path`; it replaces `path` when the block ends well, and vanishes otherwise.

    An interrupted or failing writer therefore leaves an older file whole. The temporary name keeps the suffix,
    because many writers choose their format by it. Missing parent directories are made.

    Raises:
      UserError: when the place can't be written.
    """
    target = Path(path)
    if target.is_dir():
        raise UserError(f"{target}: is a directory; give the name of a file")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # A short name: beside a target whose name is as long as names may be, a longer one could not be made.
        handle, name = tempfile.mkstemp(prefix=".part-", suffix=target.suffix, dir=target.parent)
    except OSError as error:
        raise UserError(f"{target}: can't be written ({error.strerror}); choose a writable place") from error
    os.close(handle)
    temporary = Path(name)
    try:
        # mkstemp makes files private; an output follows the user's umask like any other.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        yield temporary
        os.replace(temporary, target)
    except OSError as error:
        raise UserError(f"{target}: can't be written ({error.strerror or error}); choose a writable place") from error
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes UTF-8 text so that `path` holds either the old or the whole new content."""
    with replace_when_complete(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_segments(
    path: str | os.PathLike,
    segments: Sequence[Segment],
    *,
    name: str | None = None,
    duration: float | None = None,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Writes segments in the format that the suffix of `path` names.

    Args:
      path: ends in one of SEGMENT_SUFFIXES.
      segments: ordered, times in seconds.
      name: identifies the recording inside RTTM and JSON; the file's stem by default.
      duration: length of the recording in seconds (TextGrid needs it; the last segment's end by default).
      extra: further keys for JSON only (per-frame values).

    Raises:
      UserError: unknown suffix, or a place that can't be written.
    """
    target = Path(path)
    name = name or target.stem
    end = max([duration or 0.0, *(segment.end for segment in segments)])
    suffix = target.suffix.lower()
    if suffix == ".rttm":
        text = _rttm_text(segments, name)
    elif suffix == ".csv":
        text = _csv_text(segments)
    elif suffix == ".json":
        text = _json_text(segments, name, duration, extra or {})
    elif suffix == ".textgrid":
        text = _textgrid_text(segments, end)
    elif suffix == ".txt":
        text = _audacity_text(segments)
    else:
        raise UserError(f"{target}: unknown emotion track format; use one of {', '.join(SEGMENT_SUFFIXES)} or .npz")
    write_text(target, text)


def read_segments(path: str | os.PathLike) -> list[Segment]:
    """Reads segments from any file that write_segments writes, or that the tools of these formats write.

    Times stay exactly as written, so scores can be computed off the frame grid. Blank labels (Praat's gaps) are left out.

    Raises:
      UserError: missing or malformed file, unknown suffix, times that are not increasing within a segment.
    """
    source = Path(path)
    readers = {
        ".rttm": _parse_rttm,
        ".csv": _parse_csv,
        ".json": _parse_json,
        ".textgrid": _parse_textgrid,
        ".txt": _parse_audacity,
    }
    reader = readers.get(source.suffix.lower())
    if reader is None:
        raise UserError(f"{source}: unknown emotion track format; use one of {', '.join(SEGMENT_SUFFIXES)} or .npz")
    text = read_text(source)
    try:
        segments = reader(text)
    except (ValueError, KeyError, IndexError, TypeError, ArithmeticError, csv.Error) as error:
        raise UserError(f"{source}: not a readable {source.suffix} emotion track ({error}); write it again") from error
    for segment in segments:
        if not (math.isfinite(segment.start) and math.isfinite(segment.end) and segment.end > segment.start >= 0):
            raise UserError(f"{source}: segment {segment.start}-{segment.end} '{segment.label}' must have 0 <= start < end")
        if segment.intensity < 0 or segment.intensity > 1:
            raise UserError(f"{source}: intensity {segment.intensity} at {segment.start} s must lie in [0, 1]")
    return sorted(segments)


def read_text(path: str | os.PathLike) -> str:
    """Reads UTF-8, or UTF-16 with a byte-order mark (Praat's other encoding).

    Raises:
      UserError: missing file, directory, or bytes that are not text.
    """
    source = Path(path)
    try:
        data = source.read_bytes()
    except FileNotFoundError as error:
        raise UserError(f"{source}: no such file; check the path") from error
    except OSError as error:
        raise UserError(f"{source}: can't be read ({error.strerror}); give a readable file") from error
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise UserError(f"{source}: is not a text file; was it renamed?") from error


# Times are written with microseconds: finer than a sample at 48 kHz, and free of binary tails such as 0.30000000000000004.


def _rttm_text(segments: Sequence[Segment], name: str) -> str:
    uri = re.sub(r"\s+", "_", name)
    return "".join(f"SPEAKER {uri} 1 {s.start:.6f} {s.end - s.start:.6f} <NA> <NA> {s.label} <NA> <NA>\n" for s in segments)


def read_rttm(path: str | os.PathLike) -> dict[str, list[Segment]]:
    """Every recording of an RTTM file: its name -> segments in rising time.

    Raises:
      UserError: missing or malformed file.
    """
    try:
        return {name: sorted(segments) for name, segments in _rttm_recordings(read_text(path)).items()}
    except ValueError as error:
        raise UserError(f"{path}: not a readable .rttm emotion track ({error}); write it again") from error


def _parse_rttm(text: str) -> list[Segment]:
    recordings = _rttm_recordings(text)
    if len(recordings) > 1:
        raise ValueError(f"it holds {len(recordings)} recordings, {', '.join(list(recordings)[:3])}, where one is expected")
    return next(iter(recordings.values()), [])


# NIST's other object types: who speaks and what is said, of which an emotion track says nothing.
_OTHER_RTTM_TYPES = frozenset(
    "SPKR-INFO NOSCORE NO_RT_METADATA SEGMENT LEXEME NON-LEX NON-SPEECH FILLER EDIT IP SU CB A/P".split()
)


def _rttm_recordings(text: str) -> dict[str, list[Segment]]:
    recordings: dict[str, list[Segment]] = {}
    for line in text.splitlines():
        fields = line.split()
        if not fields or fields[0].startswith(";"):
            continue
        if fields[0] in _OTHER_RTTM_TYPES:
            continue
        if fields[0] != "SPEAKER" or len(fields) < 8:
            raise ValueError(f"line '{line[:60]}' is not a SPEAKER line")
        start = float(fields[3])
        recordings.setdefault(fields[1], []).append(Segment(start, round(start + float(fields[4]), 6), fields[7]))
    return recordings


def _csv_text(segments: Sequence[Segment]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["start", "end", "label", "intensity"])
    for s in segments:
        writer.writerow([f"{s.start:.6f}", f"{s.end:.6f}", s.label, "" if math.isnan(s.intensity) else f"{s.intensity:.6f}"])
    return buffer.getvalue()


def _parse_csv(text: str) -> list[Segment]:
    rows = csv.DictReader(io.StringIO(text))
    missing = {"start", "end", "label"} - set(rows.fieldnames or ())
    if missing:
        raise ValueError(f"the header lacks {', '.join(sorted(missing))}")
    rows = list(rows)
    if any(row["label"] is None for row in rows):
        raise ValueError("a line ends before its label")
    return [Segment(float(row["start"]), float(row["end"]), row["label"], float(row.get("intensity") or "nan")) for row in rows]


def _json_text(segments: Sequence[Segment], name: str, duration: float | None, extra: Mapping[str, Any]) -> str:
    # NaN is not JSON: an unknown intensity is null.
    rows = [
        {
            "start": round(s.start, 6),
            "end": round(s.end, 6),
            "label": s.label,
            "intensity": None if math.isnan(s.intensity) else round(s.intensity, 6),
        }
        for s in segments
    ]
    length = None if duration is None else round(duration, 6)
    document = {"format": JSON_FORMAT, "name": name, "duration": length, "segments": rows, **extra}
    return json.dumps(document, indent=1, allow_nan=False) + "\n"


def _parse_json(text: str) -> list[Segment]:
    document = json.loads(text)
    if not isinstance(document, dict) or "segments" not in document:
        raise ValueError("no 'segments' list")
    return [
        Segment(
            float(row["start"]),
            float(row["end"]),
            str(row["label"]),
            math.nan if row.get("intensity") is None else float(row["intensity"]),
        )
        for row in document["segments"]
    ]


def _audacity_text(segments: Sequence[Segment]) -> str:
    rows = []
    for s in segments:
        label = s.label if math.isnan(s.intensity) else f"{s.label} {s.intensity:.3f}"
        rows.append(f"{s.start:.6f}\t{s.end:.6f}\t{label}\n")
    return "".join(rows)


def _parse_audacity(text: str) -> list[Segment]:
    segments = []
    for line in text.splitlines():
        # Lines that start with a backslash carry the frequency range of the label before, when one was drawn in a spectrogram.
        if not line.strip() or line.startswith("\\"):
            continue
        start, end, label = line.split("\t")
        if not label.strip() or float(start) == float(end):
            continue  # a gap, or a label at a point in time, which no frame belongs to
        match = re.fullmatch(r"(.*\S)\s+([01](?:\.\d+)?)", label.strip())
        name, intensity = (match[1], float(match[2])) if match else (label.strip(), math.nan)
        segments.append(Segment(float(start), float(end), name, intensity))
    return segments


def _textgrid_text(segments: Sequence[Segment], duration: float) -> str:
    intervals: list[tuple[float, float, str, str]] = []
    cursor = 0.0
    for s in segments:
        if s.start - cursor > 1e-6:  # Praat's intervals must touch: silence between segments is an empty label.
            intervals.append((cursor, s.start, "", ""))
        intervals.append((max(s.start, cursor), s.end, s.label, "" if math.isnan(s.intensity) else f"{s.intensity:.6f}"))
        cursor = s.end
    if duration - cursor > 1e-6 or not intervals:
        intervals.append((cursor, max(duration, cursor + 1e-6), "", ""))
    end = intervals[-1][1]
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", "xmin = 0", f"xmax = {end:.6f}"]
    lines += ["tiers? <exists>", "size = 2", "item []:"]
    for tier, (title, column) in enumerate((("emotion", 2), ("intensity", 3)), start=1):
        lines += [f"    item [{tier}]:", '        class = "IntervalTier"', f'        name = "{title}"']
        lines += ["        xmin = 0", f"        xmax = {end:.6f}", f"        intervals: size = {len(intervals)}"]
        for position, interval in enumerate(intervals, start=1):
            mark = str(interval[column]).replace('"', '""')
            lines += [f"        intervals [{position}]:", f"            xmin = {interval[0]:.6f}"]
            lines += [f"            xmax = {interval[1]:.6f}", f'            text = "{mark}"']
    return "\n".join(lines) + "\n"


# A TextGrid is a sequence of free-standing numbers, quoted strings (a doubled quote is a quote) and <flags>; all other words
# are comments. Reading it so covers Praat's long and short text formats alike.
_TEXTGRID_TOKEN = re.compile(r'"((?:[^"]|"")*)"|(?:(?<=\s)|^)(-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)(?=\s|$)|<(\w+)>')


def _parse_textgrid(text: str) -> list[Segment]:
    tokens: list[str | float] = []
    for match in _TEXTGRID_TOKEN.finditer(text):
        if match[2] is not None:
            tokens.append(float(match[2]))
        elif match[3] is None:
            tokens.append(match[1].replace('""', '"'))
    if tokens[:2] != ["ooTextFile", "TextGrid"]:
        raise ValueError("it does not begin as a Praat text file")
    position = 5  # past the file type, the class, xmin, xmax and the number of tiers
    tiers: dict[str, list[tuple[float, float, str]]] = {}
    for _ in range(int(tokens[4])):
        kind, title, size = tokens[position], str(tokens[position + 1]), int(tokens[position + 4])
        position += 5
        width = 3 if kind == "IntervalTier" else 2
        rows = [tokens[position + width * i : position + width * (i + 1)] for i in range(size)]
        position += width * size
        if kind == "IntervalTier":
            tiers.setdefault(title, [(float(a), float(b), str(mark).strip()) for a, b, mark in rows])
    if not tiers:
        raise ValueError("it has no interval tier")
    emotion = tiers.get("emotion") or next(iter(tiers.values()))
    strength = {(a, b): float(mark) for a, b, mark in tiers.get("intensity", []) if mark}
    return [Segment(a, b, mark, strength.get((a, b), math.nan)) for a, b, mark in emotion if mark]
