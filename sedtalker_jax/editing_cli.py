"""The edit command: more or less of an emotion in a recording, from flags or a schedule, to a face, a track and pictures."""

from __future__ import annotations

import argparse
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sedtalker_jax.emotion.labels import CANONICAL
from sedtalker_jax.errors import UserError, about
from sedtalker_jax.outputs import (
    ANIMATION_SUFFIXES,
    TRACK_SUFFIXES,
    check_distinct,
    check_output,
    check_size,
    write_animation,
)
from sedtalker_jax.shared_flags import (
    add_basis,
    add_embedding,
    add_subject,
    given_basis,
    given_embedding,
    given_face,
    given_manner,
)

if TYPE_CHECKING:
    from sedtalker_jax.emotion import EditDictionary, EditSchedule

SCHEDULE_HELP = """\
alpha says how much: 0 is as heard; 1 brings a voice of the source emotion (neutral, unless --from names another) to where the
target is read as strong as it usually is, and 0.5 about half of that change; a negative alpha takes away, beyond 1 exaggerates.
Where an edit would leave what the voice model knows, it is held back, and the command says in how many frames.

--schedule names a JSON file of edits whose displacements add up:

  {"edits": [
    {"emotion": "happy", "alpha": 0.8, "start": 2.0, "end": 4.5, "fade": 0.1},
    {"emotion": "sad", "from": "angry", "keys": [[0.0, 0.0], [1.5, 1.0]], "interpolation": "smooth"},
    {"emotion": "surprise", "alpha": 1.0, "word": "really"}
  ]}

An edit has "alpha", or "keys" [time, alpha] in rising time ("interpolation": linear, smooth or hold). "start", "end" and "fade"
(seconds over which it comes and goes outside its range) are optional; "word", a word or its number from 0, takes the place of
start and end and needs --words.

  python -m sedtalker_jax edit speech.wav --checkpoint runs/demo --happy 0.8 --at 2.0-4.5 --sad -0.5 --out talk.mp4
"""


class _Alpha(argparse.Action):
    """Begins an edit; --at, --from and --fade that follow belong to it. Values are read when the command runs."""

    def __call__(self, parser, namespace, values, option_string=None):
        emotion, alpha = values if isinstance(values, list) else (self.const, values)
        namespace.edits = [*namespace.edits, {"emotion": emotion, "alpha": alpha}]


class _OfLast(argparse.Action):
    """Says more about the last edit."""

    def __call__(self, parser, namespace, values, option_string=None):
        *before, last = namespace.edits or [{}]
        namespace.edits = [*before, {**last, self.const: values}]


def add_parser(commands) -> None:
    """Adds the command to an argparse collection of subcommands."""
    edit = commands.add_parser(
        "edit",
        help="more or less of an emotion in a recording",
        description="Moves the emotion that is heard in a recording along the boundaries between emotions, over time, and "
        "animates the face with it. Outside an edit the face stays as `animate` has it.",
        epilog=SCHEDULE_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    edit.set_defaults(edits=[], run=run)
    edit.add_argument("audio", help="wav, flac, mp3 or ogg file of any rate and channel count")
    edit.add_argument("--checkpoint", required=True, metavar="DIR", help="workdir of train.py that evaluate.py has scored")
    which = edit.add_argument_group("edits", "as many as wanted; --at, --from and --fade belong to the emotion before them")
    for name in CANONICAL:
        which.add_argument(f"--{name}", action=_Alpha, const=name, metavar="ALPHA", help=argparse.SUPPRESS)
    names = ", ".join(f"--{name}" for name in CANONICAL)
    which.add_argument("--emotion", action=_Alpha, nargs=2, metavar=("NAME", "ALPHA"), help=f"an edit; shorter: {names} ALPHA")
    which.add_argument("--at", action=_OfLast, const="at", metavar="START-END", help="seconds (default: the whole recording)")
    which.add_argument(
        "--from", action=_OfLast, const="from", metavar="NAME", help="emotion to move from, along their boundary"
    )
    which.add_argument("--fade", action=_OfLast, const="fade", metavar="SECONDS", help="around --at (default: 0.1)")
    which.add_argument("--schedule", metavar="FILE", help="edits from a JSON file, see below")
    which.add_argument(
        "--words",
        metavar="FILE",
        help="words and their times for a schedule's edits by word "
        "(.TextGrid whose first tier holds them, Audacity's .txt, .csv, .json)",
    )
    edit.add_argument("--out", action="append", default=[], metavar="FILE", help=f"{' '.join(ANIMATION_SUFFIXES)}, as animate")
    edit.add_argument(
        "--track-out",
        metavar="FILE",
        help=f"the edited track, {' '.join(TRACK_SUFFIXES)} (default: beside the first --out, NAME.track.json)",
    )
    edit.add_argument("--sheet", metavar="FILE", help=".png: every emotion with alpha from -1 to 2, at the loudest moment")
    edit.add_argument("--plot", metavar="FILE", help=".png: the embedding space, its boundaries and the path of the edits")
    edit.add_argument("--template", metavar="FILE|NAME", help="face to animate, as for animate")
    add_subject(edit)
    add_embedding(edit)
    add_basis(edit)
    edit.add_argument("--size", type=int, default=512, help="pixels of the video's face (default: %(default)s)")


def _number(text: str, what: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UserError(f"{what} {text}: a number is expected") from None


def _entry(edit: dict[str, str]) -> dict[str, Any]:
    if "emotion" not in edit:
        raise UserError("--at, --from and --fade follow the emotion that they belong to, as in --happy 0.8 --at 2.0-4.5")
    entry: dict[str, Any] = {"emotion": edit["emotion"], "alpha": _number(edit["alpha"], f"--{edit['emotion']}")}
    if "at" in edit:
        start, dash, end = edit["at"].partition("-")
        if not dash:
            raise UserError(f"--at {edit['at']}: a range is expected, such as 2.0-4.5")
        entry |= {"start": _number(start, "--at"), "end": _number(end, "--at")}
    if "fade" in edit:
        entry["fade"] = _number(edit["fade"], "--fade")
    if "from" in edit:
        entry["from"] = edit["from"]
    return entry


def read_schedule(edits: Sequence[dict[str, str]], schedule: str | None = None, words: str | None = None) -> EditSchedule:
    """The edits of the flags and of a file together.

    Args:
      edits: {"emotion", "alpha", "at", "from", "fade"} as typed.
      schedule: JSON file.
      words: alignment for edits by word.

    Raises:
      UserError: anything malformed; the message names the flag, or the file and the edit's number.
    """
    from sedtalker_jax.emotion import EditSchedule
    from sedtalker_jax.emotion.editing import compose
    from sedtalker_jax.emotion.formats import read_segments

    if words is not None and schedule is None:
        raise UserError("--words: only a --schedule has edits by word")
    parts = []
    if edits:
        parts.append(EditSchedule.from_list([_entry(edit) for edit in edits]))
    if schedule is not None:
        aligned = None if words is None else [(word.label, word.start, word.end) for word in read_segments(words)]
        parts.append(EditSchedule.load(schedule, aligned))
    return compose(parts)


def run(arguments: argparse.Namespace) -> None:
    """edit: audio and edits to an animation, a track and pictures."""
    from sedtalker_jax.inference.editing import animate_edited, edit
    from sedtalker_jax.inference.pipeline import SEDTalker
    from sedtalker_jax.speech import load_audio

    targets = [check_output(path, ANIMATION_SUFFIXES) for path in arguments.out]
    asked = {name: getattr(arguments, name) for name in ("sheet", "plot")}
    pictures = {name: check_output(path, (".png",)) for name, path in asked.items() if path is not None}
    track_out = None
    if arguments.track_out is not None:
        track_out = check_output(arguments.track_out, TRACK_SUFFIXES)
    elif targets:
        track_out = check_output(targets[0].with_suffix(".track.json"), TRACK_SUFFIXES)
    check_distinct(
        (*targets, track_out, *pictures.values()),
        [getattr(arguments, name) for name in ("audio", "schedule", "words", "template", "style", "embedding", "basis")],
    )
    check_size(arguments.size)
    schedule = read_schedule(arguments.edits, arguments.schedule, arguments.words)
    if not targets and track_out is None and not pictures:
        raise UserError("nothing to make: give --out, --track-out, --sheet or --plot")
    if not schedule.edits and set(pictures) != {"sheet"}:
        raise UserError("no edit is given: name one, such as --happy 0.8, or a --schedule")
    waveform = load_audio(arguments.audio)
    model = SEDTalker.load(arguments.checkpoint)
    embedding = given_embedding(arguments, model)
    model, subject = given_manner(arguments, model)
    face = given_face(arguments, model) if targets or "sheet" in pictures else None
    basis = given_basis(arguments, face, targets) if face is not None else None
    dictionary = model.edit_dictionary
    schedule = schedule.check(dictionary.labels, len(waveform) / 16_000)
    with about(arguments.audio):
        edited = edit(model, waveform, schedule, given_embedding=embedding)
    if line := edited.describe():
        print(line)
    if targets:
        animation = animate_edited(model, waveform, edited, template=face, subject=subject)
        for target in targets:
            print(write_animation(target, animation, waveform, size=arguments.size, basis=basis))
    if track_out is not None:
        per_frame = track_out.suffix.lower() == ".json"
        edited.track.save(track_out, per_frame=per_frame, method="viterbi", name=pathlib.Path(arguments.audio).stem)
        print(f"{track_out}: the edited emotion")
    if "plot" in pictures:
        from sedtalker_jax.evaluation.editing_plot import edits_figure
        from sedtalker_jax.evaluation.report import save_figure

        save_figure(edits_figure(dictionary, schedule, (edited.before, edited.after)), pictures["plot"])
        print(f"{pictures['plot']}: {_describe(dictionary)}")
    if "sheet" in pictures:
        from sedtalker_jax.face.sheet import save_picture
        from sedtalker_jax.inference.editing_sheet import edit_sheet

        options = dict(template=face, subject=subject, given_embedding=embedding)
        picture, time = edit_sheet(model, waveform, **options)
        save_picture(pictures["sheet"], picture)
        print(f"{pictures['sheet']}: every emotion at {time:.2f} s")


def _describe(dictionary: EditDictionary) -> str:
    return f"{len(dictionary.examples)} segments of {len(dictionary.labels)} emotions"
