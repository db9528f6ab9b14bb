"""The study command: an offline page on which people compare systems, and the scores of their votes."""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
from collections.abc import Sequence

from sedtalker_jax.emotion.formats import write_text
from sedtalker_jax.errors import UserError

EPILOG = """\
  python -m sedtalker_jax study make --system ours=videos/ours --system theirs=videos/theirs --out study
      study/page is for the raters: they open index.html, vote, and send the file that it saves. No network is needed.
      study/key.json says what is what: keep it.
  python -m sedtalker_jax study score --study study votes/ --out votes.json
"""


def add_parser(commands) -> None:
    """Adds the command to an argparse collection of subcommands."""
    study = commands.add_parser(
        "study",
        help="a page for human raters, and the scores of their votes",
        description="Compares systems by people: side by side, and by the emotion of voice and face apart.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = study.add_subparsers(dest="action", required=True, metavar="action")
    make = actions.add_parser("make", help="write the page and its key")
    make.add_argument(
        "--system",
        action="append",
        default=[],
        metavar="NAME=DIR",
        help="a system's videos (.mp4, .webm); one file name is one recording in all systems; at least two",
    )
    make.add_argument("--out", required=True, type=pathlib.Path, metavar="DIR", help="the study to write")
    make.add_argument("--title", default="Talking faces", help="of the page (default: %(default)s)")
    make.add_argument(
        "--questions", default="lips,emotion,natural", metavar="NAME,...", help="asked of each pair (default: %(default)s)"
    )
    make.add_argument(
        "--stretches",
        metavar="FILE",
        help="CSV with columns clip,start,end[,voice][,face]: ask for the emotion here; voice and face give the true one "
        "(default: ask in every clip, whole)",
    )
    make.add_argument("--catch", type=int, default=4, metavar="N", help="catch trials (default: %(default)s)")
    make.set_defaults(run=run_make)
    score = actions.add_parser("score", help="score the files that the page saved")
    score.add_argument("votes", nargs="+", metavar="FILE|DIR", help="files that raters sent, or folders of them")
    score.add_argument("--study", required=True, type=pathlib.Path, metavar="DIR", help="what `study make` wrote")
    score.add_argument("--out", metavar="FILE", help="all numbers as JSON")
    score.set_defaults(run=run_score)


def run_make(arguments: argparse.Namespace) -> None:
    """Writes a study. Raises UserError."""
    from sedtalker_jax.evaluation.study import trials

    systems = {}
    for given in arguments.system:
        name, equals, directory = given.partition("=")
        if not (name and equals and directory):
            raise UserError(f"--system {given}: NAME=DIR is expected")
        if name in systems:
            raise UserError(f"--system {name} is given twice")
        systems[name] = pathlib.Path(directory)
    questions = list(dict.fromkeys(name for name in arguments.questions.split(",") if name))
    unknown = [name for name in questions if name not in trials.QUESTIONS]
    if unknown or not questions:
        raise UserError(f"--questions {arguments.questions}: expected some of {', '.join(trials.QUESTIONS)}")
    if arguments.catch < 0:
        raise UserError(f"--catch {arguments.catch}: must be 0 or more")
    videos = trials.find_videos(systems)
    seconds = trials.durations(videos)
    if arguments.stretches:
        stretches = trials.read_stretches(arguments.stretches, seconds)
    else:
        stretches = [trials.Stretch(clip) for clip in videos]
    made = trials.make_trials(videos, stretches, questions, arguments.catch)
    trials.write_study(arguments.out, videos, made, arguments.title)
    clips = f"{len(made)} trials on {len(videos)} recordings"
    print(f"{clips}: hand out {arguments.out / trials.PAGE}, keep {arguments.out / trials.KEY}", file=sys.stderr)


def run_score(arguments: argparse.Namespace) -> None:
    """Prints the tables, and writes them as JSON. Raises UserError."""
    from sedtalker_jax.evaluation.study import votes
    from sedtalker_jax.evaluation.table import plain_values

    key = votes.read_study(arguments.study)
    tables, facts = votes.score_votes(votes.read_votes(_files(arguments.votes), key), key)
    print("\n\n".join(table.plain() for table in tables))
    print(f"{facts['votes']} votes of {len(facts['raters'])} raters; left out: {', '.join(facts['left_out']) or 'nobody'}")
    if arguments.out:
        document = plain_values({**facts, "tables": {table.title: table.to_dict() for table in tables}})
        write_text(arguments.out, json.dumps(document, indent=1, allow_nan=False, ensure_ascii=False) + "\n")


def _files(given: Sequence[str]) -> list[pathlib.Path]:
    files = []
    for name in map(pathlib.Path, given):
        found = sorted(name.glob("*.json")) if name.is_dir() else [name]
        if not found:
            raise UserError(f"{name}: holds no .json files of votes")
        files += found
    return files
