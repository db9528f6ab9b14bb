"""The trials of a study and the page that shows them.

Three kinds of trials. A pair shows two systems' faces on one recording, side by side and together, and asks which is better. A
voice trial plays a stretch with the picture hidden and asks for the emotion of the voice; a face trial shows it without sound
and asks for the emotion of the face: seen and heard together, each would colour the other. Catch trials are pairs of which one
face speaks another recording's words: whoever says that its lips fit better does not look.

A pair's sound is the first system's, to which a browser keeps that system's picture aligned more strictly than the other's; so
each system of a pair is the first in half of the clips.

The page names neither systems nor clips: videos and trials have opaque names, which key.json, kept apart, translates. Sides and
order are drawn anew for every rater, from the rater's name, in the page.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import itertools
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from sedtalker_jax.emotion.formats import read_text, write_text
from sedtalker_jax.emotion.labels import CANONICAL
from sedtalker_jax.errors import UserError

VIDEO_SUFFIXES = (".mp4", ".webm")
VIDEO_CODECS = ("h264", "vp8", "vp9", "av1")
"""What every present browser plays."""
PAGE, KEY = "page", "key.json"
"""What raters get, and what they must not see."""

QUESTIONS = {
    "lips": "Whose lips fit the words better?",
    "emotion": "Whose face fits the emotion of the voice better?",
    "natural": "Which face moves more naturally?",
}
CATCH_QUESTION = "lips"
"""The only one whose answer is known where a face speaks another recording's words."""

VOICE, FACE = "voice", "face"
UNSURE = "can't tell"


@dataclasses.dataclass(frozen=True)
class Stretch:
    """A part of a clip whose emotion is asked for.

    Attributes:
      clip: name of the video without its suffix.
      start, end: seconds; an infinite end is the clip's.
      voice, face: true emotions, empty where unknown.
    """

    clip: str
    start: float = 0.0
    end: float = float("inf")
    voice: str = ""
    face: str = ""


def find_videos(systems: Mapping[str, Path]) -> dict[str, dict[str, Path]]:
    """clip -> system -> video, of the clips that all systems have.

    Args:
      systems: name -> directory of videos; equal file names are one clip.

    Raises:
      UserError: fewer than two systems, a directory without videos, or no clip that all have.
    """
    if len(systems) < 2:
        raise UserError("a study compares at least two systems: give --system NAME=DIR twice")
    found = {}
    for name, directory in systems.items():
        if not directory.is_dir():
            raise UserError(f"{directory}: no such directory of videos (--system {name}=...)")
        found[name] = {path.stem: path for path in sorted(directory.iterdir()) if path.suffix.lower() in VIDEO_SUFFIXES}
        if not found[name]:
            raise UserError(f"{directory}: holds no {' or '.join(VIDEO_SUFFIXES)} files")
    shared = sorted(set.intersection(*(set(videos) for videos in found.values())))
    if not shared:
        raise UserError(f"no file name is in all of {', '.join(map(str, systems.values()))}: name one clip alike in all")
    return {clip: {name: videos[clip] for name, videos in found.items()} for clip in shared}


def durations(videos: Mapping[str, Mapping[str, Path]]) -> dict[str, float]:
    """clip -> seconds of its shortest video.

    Raises:
      UserError: a file that is no video, or that browsers can't play.
    """
    return {clip: min(map(_duration, systems.values())) for clip, systems in videos.items()}


def _duration(path: Path) -> float:
    import av  # slow to import, and no other command of the study needs it

    try:
        with av.open(str(path)) as container:
            codecs = [stream.codec_context.name for stream in container.streams.video]
            seconds = (container.duration or 0) / av.time_base
    except (av.FFmpegError, OSError) as error:
        raise UserError(f"{path}: can't be read as a video ({error.strerror})") from error
    if not codecs or codecs[0] not in VIDEO_CODECS:
        kind = f"its video is {codecs[0]}" if codecs else "it has no picture"
        raise UserError(f"{path}: browsers don't play it ({kind}): make it again as {', '.join(VIDEO_CODECS)}")
    return seconds


def read_stretches(path: str | Path, seconds: Mapping[str, float], emotions: Sequence[str] = CANONICAL) -> list[Stretch]:
    """Reads a CSV file with columns clip, start, end and optionally voice and face (true emotions).

    Args:
      seconds: clip -> duration.

    Raises:
      UserError: a missing column, a clip or emotion that is not known, times that are no stretch of the clip, or one twice.
    """
    rows = list(csv.DictReader(read_text(path).splitlines()))
    stretches = []
    for number, row in enumerate(rows, start=2):
        try:
            stretch = Stretch(
                row["clip"], float(row["start"]), float(row["end"]), row.get("voice") or "", row.get("face") or ""
            )
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path}, line {number}: columns clip, start and end (seconds) are needed") from error
        if stretch.clip not in seconds:
            raise UserError(f"{path}, line {number}: no video of clip {stretch.clip} in all systems")
        if not 0 <= stretch.start < stretch.end:
            raise UserError(f"{path}, line {number}: {stretch.start:g} to {stretch.end:g} s is no stretch of time")
        if stretch.start >= seconds[stretch.clip]:
            raise UserError(f"{path}, line {number}: {stretch.clip} ends at {seconds[stretch.clip]:.2f} s")
        if any((stretch.clip, stretch.start, stretch.end) == (one.clip, one.start, one.end) for one in stretches):
            raise UserError(f"{path}, line {number}: the same stretch of {stretch.clip} is asked for twice")
        unknown = [name for name in (stretch.voice, stretch.face) if name and name not in emotions]
        if unknown:
            raise UserError(f"{path}, line {number}: unknown emotion {unknown[0]}; expected {', '.join(emotions)}")
        stretches.append(stretch)
    return stretches


def make_trials(
    videos: Mapping[str, Mapping[str, Path]],
    stretches: Sequence[Stretch],
    questions: Sequence[str],
    num_catch: int,
) -> list[dict[str, Any]]:
    """All trials, by system and clip; see the module.

    Args:
      videos: `find_videos`.
      stretches: asked for the emotion of voice and face.
      questions: of every pair, different keys of QUESTIONS.
      num_catch: catch trials, spread over clips and systems; fewer where there are not so many different ones.

    Returns:
      Dictionaries with "kind" (pair, catch, voice or face), "clip" and what the kind needs.

    Raises:
      UserError: catch trials of one clip.
    """
    clips, systems = list(videos), list(next(iter(videos.values())))
    if num_catch and len(clips) < 2:
        raise UserError("catch trials need another clip's face: give at least two clips, or --catch 0")
    trials: list[dict[str, Any]] = [
        {"kind": "pair", "clip": clip, "systems": list(pair[:: (-1) ** turn]), "questions": list(questions)}
        for turn, clip in enumerate(clips)
        for pair in itertools.combinations(systems, 2)
    ]
    # Every clip once before any comes again, and all different: equal trials would share their votes.
    turns = itertools.product(range(len(systems)), range(1, len(clips)), range(len(clips)))
    different = [
        (clips[i], clips[(i + step) % len(clips)], systems[(i + step + turn) % len(systems)]) for turn, step, i in turns
    ]
    if num_catch < len(clips):
        different = [different[number * len(clips) // num_catch] for number in range(num_catch)]
    for clip, other, system in different[:num_catch]:
        trial = {"kind": "catch", "clip": clip, "other": other, "systems": [system] * 2}
        # All of a pair's questions, so that it looks like one, and the one that it is judged by.
        trials.append({**trial, "questions": list(dict.fromkeys([*questions, CATCH_QUESTION]))})
    for stretch in stretches:
        place = {"clip": stretch.clip, "start": stretch.start, "end": stretch.end if stretch.end < float("inf") else None}
        trials.append({"kind": VOICE, **place, "systems": systems[:1], "truth": stretch.voice})
        trials += [{"kind": FACE, **place, "systems": [name], "truth": stretch.face} for name in systems]
    return trials


def write_study(
    out: Path,
    videos: Mapping[str, Mapping[str, Path]],
    trials: Sequence[Mapping[str, Any]],
    title: str,
    emotions: Sequence[str] = CANONICAL,
) -> None:
    """Writes OUT/page (index.html and the videos, to be handed to raters) and OUT/key.json (to be kept), the key last.

    Raises:
      UserError: OUT holds a study already, raters may be voting on it; or it can't be written.
    """
    if (out / KEY).exists():
        raise UserError(f"{out}: holds a study already, and votes belong to one study; choose another --out")
    if (out / PAGE).exists():
        raise UserError(f"{out / PAGE}: is there already, and belongs to no study; move it away or choose another --out")
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out, prefix=f".{PAGE}-") as unfinished:
            page = Path(unfinished) / PAGE
            key = _write_page(page, out.name, videos, trials, title, emotions)
            page.rename(out / PAGE)
        write_text(out / KEY, json.dumps(key, indent=1) + "\n")
    except OSError as error:
        raise UserError(f"{out}: can't write there ({error.strerror}); choose another --out") from error


def _write_page(page: Path, salt: str, videos, trials, title: str, emotions: Sequence[str]) -> dict[str, Any]:
    """Writes the folder that raters get, and returns what its trials mean."""
    (page / "videos").mkdir(parents=True)
    names: dict[tuple[str, str], str] = {}
    for clip, systems in videos.items():
        for system, source in systems.items():
            # Equal videos get names of their own all the same: what is compared must not be recognised by its name.
            opaque = _opaque(salt, clip, system, hashlib.sha256(source.read_bytes()).hexdigest())
            names[clip, system] = f"videos/{opaque}{source.suffix.lower()}"
            shutil.copyfile(source, page / names[clip, system])
    key_trials, page_trials = {}, []
    for trial in trials:
        name = _opaque(json.dumps(trial, sort_keys=True))
        shown = [names[trial["clip"], system] for system in trial["systems"]]
        if trial["kind"] == "catch":
            shown[1] = names[trial["other"], trial["systems"][1]]
        key_trials[name] = {**trial, "videos": shown}
        kind = "pair" if trial["kind"] in ("pair", "catch") else trial["kind"]
        given = {name: trial[name] for name in ("questions", "start", "end") if name in trial}
        page_trials.append({"id": name, "kind": kind, "videos": shown, **given})
    study = _opaque(json.dumps(key_trials, sort_keys=True))
    content = {
        "study": study,
        "title": title,
        "questions": QUESTIONS,
        "emotions": [*emotions, UNSURE],
        "trials": sorted(page_trials, key=lambda trial: trial["id"]),
    }
    template = resources.files("sedtalker_jax.evaluation.study").joinpath("page.html").read_text(encoding="utf-8")
    # "</" inside a script would end it.
    write_text(page / "index.html", template.replace("/*STUDY*/null", json.dumps(content).replace("</", "<\\/")))
    return {"study": study, "title": title, "emotions": content["emotions"], "trials": key_trials}


def _opaque(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
