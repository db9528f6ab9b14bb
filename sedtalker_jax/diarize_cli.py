"""The diarize command: emotion tracks of one recording, or of many in several processes."""

from __future__ import annotations

import argparse
import logging
import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from sedtalker_jax.errors import UserError, about
from sedtalker_jax.folders import files_below
from sedtalker_jax.outputs import TRACK_SUFFIXES, check_distinct, check_output
from sedtalker_jax.shared_flags import add_embedding, given_embedding

if TYPE_CHECKING:
    from sedtalker_jax.inference.pipeline import SEDTalker

AUDIO_SUFFIXES = (".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus", ".m4a", ".mp4")
"""Files that are looked for in folders."""


def add_parser(commands) -> None:
    """Adds the command to an argparse collection of subcommands."""
    diarize = commands.add_parser(
        "diarize",
        help="speech to emotion segments",
        description="Predicts emotion and intensity for every 20 ms frame and writes them as segments. Of many recordings, "
        "those that can't be read are named and left out, and the others go on; run again, it does what is missing.",
    )
    diarize.add_argument("audio", nargs="+", help="audio files, or folders of them")
    diarize.add_argument("--checkpoint", required=True, metavar="DIR", help="workdir of train.py, such as runs/demo")
    diarize.add_argument(
        "--out",
        metavar="FILE",
        help=f"for one file: {' '.join(TRACK_SUFFIXES)} (.txt is Audacity's; default: print the segments)",
    )
    diarize.add_argument("--out-dir", metavar="DIR", help="for several files: one track each, named after the file")
    diarize.add_argument(
        "--format",
        default="rttm",
        choices=[s.lstrip(".") for s in TRACK_SUFFIXES],
        help="of --out-dir's files (default: %(default)s)",
    )
    diarize.add_argument(
        "--decoder",
        default="viterbi",
        choices=("raw", "median", "minimum_duration", "viterbi", "total_variation"),
        help="how per-frame probabilities become segments (default: %(default)s)",
    )
    add_embedding(diarize, "; with --out-dir .npz of one vector per recording, by its name without suffix")
    diarize.add_argument("--per-frame", action="store_true", help="also write per-frame probabilities (.json)")
    diarize.add_argument("--overwrite", action="store_true", help="with --out-dir: redo files that exist already")
    diarize.add_argument(
        "--jobs",
        type=int,
        default=1,
        metavar="N",
        help="processes, each with the model in its memory, for --out-dir (default: %(default)s)",
    )
    diarize.set_defaults(run=run_diarize)


def run_diarize(arguments: argparse.Namespace) -> None:
    """diarize: audio to emotion tracks.

    Raises:
      UserError: a flag or the checkpoint is wrong, the one recording can't be read, or, at the end, some of many couldn't.
    """
    files = audio_files(arguments.audio)
    if arguments.jobs < 1:
        raise UserError(f"--jobs must be at least 1, not {arguments.jobs}")
    if arguments.out is not None and (len(files) > 1 or arguments.out_dir):
        raise UserError(f"--out names one file, but there are {len(files)} recordings; use --out-dir alone")
    if len(files) > 1 and not arguments.out_dir:
        raise UserError(f"{len(files)} recordings need --out-dir")
    if arguments.per_frame and arguments.out is None and not arguments.out_dir:
        raise UserError("--per-frame: probabilities go into a file; name it by --out or --out-dir")
    suffix = f".{arguments.format}" if arguments.out is None else pathlib.Path(arguments.out).suffix
    if arguments.per_frame and suffix.lower() not in (".json", ".npz"):
        raise UserError(f"--per-frame: only .json and .npz hold per-frame probabilities, not {suffix}")
    saving = {"per_frame": arguments.per_frame and suffix.lower() == ".json", "method": arguments.decoder}
    if not arguments.out_dir:
        _diarize_one(files[0], arguments, saving)
        return
    folder = pathlib.Path(arguments.out_dir)
    targets = _targets(files, folder, suffix)
    check_output(targets[files[0]], TRACK_SUFFIXES)
    check_distinct(targets.values(), (*files, arguments.embedding))
    left = [file for file in files if arguments.overwrite or not targets[file].exists()]
    if len(left) < len(files):
        print(f"{len(files) - len(left)} of {len(files)} tracks exist already and stay; --overwrite redoes them")
    if arguments.embedding is not None:
        from sedtalker_jax.data.given_embeddings import given_embedding_size

        given_embedding_size(arguments.embedding)  # a file that can't be read is one error, not one per recording
    jobs = [(file, targets[file], saving, arguments.embedding) for file in left]
    problems = []
    for problem in filter(None, _problems(arguments.checkpoint, jobs, min(arguments.jobs, len(jobs)))):
        problems.append(problem)
        if len(files) > 1:
            _print_beside_the_bar(problem)
    if problems and len(files) == 1:
        raise UserError(problems[0])
    if problems:
        count = f"{len(problems)} of {len(left)} recordings"
        raise UserError(f"{count} could not be diarized (named above); the tracks of the others are in {folder}")


def _targets(files: Sequence[pathlib.Path], folder: pathlib.Path, suffix: str) -> dict[pathlib.Path, pathlib.Path]:
    """Where each recording's track goes."""
    sources: dict[pathlib.Path, pathlib.Path] = {}
    for file in files:
        target = folder / (file.stem + suffix)
        if target in sources:
            raise UserError(
                f"--out-dir: {sources[target]} and {file} would both become {target}; name the files to use instead of the "
                "folder, or give each folder an --out-dir of its own"
            )
        sources[target] = file
    return {file: target for target, file in sources.items()}


def audio_files(paths: Sequence[str]) -> list[pathlib.Path]:
    """The files, and of folders all audio files in them, at any depth.

    Raises:
      UserError: a folder without any.
    """
    files: list[pathlib.Path] = []
    for path in map(pathlib.Path, paths):
        if path.is_dir():
            found = sorted(p for p in files_below(path) if p.suffix.lower() in AUDIO_SUFFIXES)
            if not found:
                raise UserError(f"{path}: a folder without audio files ({', '.join(AUDIO_SUFFIXES)})")
            files += found
        else:
            files.append(path)
    return files


def _diarize_one(file: pathlib.Path, arguments: argparse.Namespace, saving: dict) -> None:
    from sedtalker_jax.speech import store_audio

    target = None if arguments.out is None else check_output(arguments.out, TRACK_SUFFIXES)
    check_distinct([target], (file, arguments.embedding))
    with store_audio(file) as waveform:
        model = _load(arguments.checkpoint)
        embedding = given_embedding(arguments, model)
        with about(file):
            track = model.diarize(waveform, given_embedding=embedding)
    if target is not None:
        track.save(target, name=file.stem, **saving)
        return
    for segment in track.segments(arguments.decoder):
        print(f"{segment.start:8.2f} {segment.end:8.2f}  {segment.label:<9} intensity {segment.intensity:.2f}")


def _problems(checkpoint: str, jobs: Sequence[tuple], processes: int) -> Iterator[str]:
    """Diarizes, with a progress bar, and gives one line per recording: what is wrong with it, '' if nothing is."""
    from tqdm import tqdm

    from sedtalker_jax.data.pool import WorkerPool

    if processes <= 1:
        model = _load(checkpoint) if jobs else None
        bar = tqdm(jobs, desc="diarize", unit="file", disable=len(jobs) < 2, smoothing=0.05)
        yield from (_diarize_file(model, *job) for job in bar)
        return
    with WorkerPool(processes, _load, (checkpoint,)) as pool:
        # One at a time: recordings differ in length, and a bar that moves tells the time left.
        yield from pool.map(_diarize_file, jobs, "diarize", chunk=1, unit="file")


def _load(checkpoint: str) -> SEDTalker:
    from sedtalker_jax.inference.pipeline import SEDTalker

    # As errors.exit_code has it; worker processes begin without.
    logging.getLogger("absl").setLevel(logging.ERROR)
    return SEDTalker.load(checkpoint)


def _diarize_file(model: SEDTalker, file: pathlib.Path, target: pathlib.Path, saving: dict, embeddings: str | None) -> str:
    """Writes a recording's track. A recording that can't be read is a line to print and not an error: the others go on."""
    from sedtalker_jax.data import given_embeddings
    from sedtalker_jax.speech import store_audio

    try:
        with about(file):
            embedding = None if embeddings is None else given_embeddings.given_embedding(embeddings, file.stem)
            with store_audio(file) as waveform:
                model.diarize(waveform, given_embedding=embedding).save(target, name=file.stem, **saving)
    except UserError as error:
        return str(error)
    return ""


def _print_beside_the_bar(line: str) -> None:
    from tqdm import tqdm

    tqdm.write(f"error: {line}", file=sys.stderr)
