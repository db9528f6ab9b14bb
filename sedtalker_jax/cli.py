"""The command line: python -m sedtalker_jax {animate,diarize,edit,live,compare,prepare,convert,fit-style,study} ...

A user's mistake gives one line on standard error and exit code 2. Outputs appear whole or not at all.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from sedtalker_jax import comparison_cli, diarize_cli, editing_cli, live_cli, study_cli, style_cli
from sedtalker_jax.allocator import keep_freed_memory
from sedtalker_jax.errors import UserError, about, exit_code
from sedtalker_jax.outputs import ANIMATION_HELP, ANIMATION_SUFFIXES, check_distinct, check_output, check_size, write_animation
from sedtalker_jax.shared_flags import (
    CommandParser,
    add_basis,
    add_embedding,
    add_subject,
    given_basis,
    given_embedding,
    given_face,
    given_manner,
    given_track,
    named_track,
)

if TYPE_CHECKING:
    from sedtalker_jax.emotion import EmotionTrack
    from sedtalker_jax.inference.pipeline import SEDTalker


def build_parser() -> argparse.ArgumentParser:
    """All commands and their flags."""
    parser = CommandParser(prog="python -m sedtalker_jax", description="Emotion-aware speech-driven 3D facial animation.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")

    animate = commands.add_parser(
        "animate",
        help="speech to a talking, feeling face",
        description="Animates a face from speech: words on the lips, the voice's emotion in the face.",
    )
    animate.add_argument("audio", help="wav, flac, mp3 or ogg file of any rate and channel count")
    _add_checkpoint(animate)
    animate.add_argument(
        "--out",
        action="append",
        required=True,
        metavar="FILE",
        help=f"{ANIMATION_HELP}; may be given several times",
    )
    animate.add_argument(
        "--template",
        metavar="FILE|NAME",
        help="face to animate: .ply, .obj, .npy or .npz of the model's topology, or a name "
        "of one that the model carries (default: its first)",
    )
    animate.add_argument(
        "--track",
        metavar="FILE",
        help="emotion track that drives the face instead of the diarizer's "
        "(.json .csv .rttm .TextGrid .txt .npz, as diarize writes them)",
    )
    animate.add_argument("--emotion", metavar="NAME", help="one emotion for the whole clip instead of the diarizer's")
    animate.add_argument(
        "--trajectory",
        metavar="NAME,NAME,...",
        help="emotions that the face goes through during the clip, smoothly, instead of the diarizer's: angry,neutral,happy",
    )
    animate.add_argument(
        "--intensity",
        type=float,
        help="strength of --emotion or of all in --trajectory, 0 to 1 (default: 1)",
    )
    _add_shaping(animate)
    add_subject(animate)
    add_embedding(animate)
    add_basis(animate)
    animate.add_argument(
        "--size", type=int, default=512, help="height and width of the video's face in pixels (default: %(default)s)"
    )
    animate.set_defaults(run=run_animate)

    diarize_cli.add_parser(commands)
    editing_cli.add_parser(commands)
    live_cli.add_parser(commands)
    comparison_cli.add_parser(commands)

    prepare = commands.add_parser(
        "prepare",
        help="a corpus in its official layout to records for training",
        description="Writes a corpus as record shards with a manifest. Interrupted, it goes on where it stopped.",
    )
    prepare.add_argument(
        "--corpus", required=True, metavar="NAME", help="which corpus --root holds; `--corpus help` lists them"
    )
    prepare.add_argument("--root", metavar="DIR", help="the corpus as unpacked")
    prepare.add_argument("--out", metavar="DIR", help="record directory to build, one per corpus")
    prepare.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: %(default)s)")
    prepare.add_argument(
        "--licence", default="any", choices=("any", "commercial"), help="keep only what allows this use (default: %(default)s)"
    )
    prepare.add_argument("--fold", type=int, default=0, help="which partition into train, valid, test (default: %(default)s)")
    prepare.add_argument("--limit", type=int, metavar="N", help="at most N clips, spread over the corpus, for trying out")
    prepare.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a choice of this corpus; may be given several times",
    )
    prepare.add_argument("--overwrite", action="store_true", help="build again, and replace what --out holds")
    prepare.add_argument("--quiet", action="store_true", help="no progress bar")
    prepare.set_defaults(run=run_prepare)

    convert = commands.add_parser(
        "convert",
        help="speech encoder checkpoints between layouts",
        description="Converts a wav2vec 2.0, HuBERT or WavLM checkpoint (Hugging Face directory or fairseq file) to a clean "
        "Hugging Face directory with safetensors.",
    )
    convert.add_argument("source", help="directory with config.json and weights, or a fairseq / unilm .pt file")
    convert.add_argument("out", help="directory to write; must not exist or be empty")
    convert.set_defaults(run=run_convert)

    style_cli.add_parser(commands)
    study_cli.add_parser(commands)
    return parser


def _add_checkpoint(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", required=True, metavar="DIR", help="workdir of train.py, such as runs/demo")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command. Returns the exit code: 0, or 2 after a user's mistake, whose one line is printed."""
    keep_freed_memory()
    arguments, unknown = build_parser().parse_known_args(argv)

    def run():
        if unknown:
            asked = f"python -m sedtalker_jax {arguments.command}"
            raise UserError(f"{arguments.command} does not know {' '.join(unknown)}; `{asked} --help` lists what it takes")
        arguments.run(arguments)

    return exit_code(run)


def _add_shaping(animate: argparse.ArgumentParser) -> None:
    """Adds what is done to the emotion, whoever gave it, before it drives the face."""
    shaping = animate.add_argument_group(
        "shaping", "what the face makes of the emotion, whoever gave it, in this order; by default nothing is changed"
    )
    shaping.add_argument(
        "--contrast", type=float, metavar="X", help="exponent on the probabilities: above 1.25 surer, below it more of a blend"
    )
    shaping.add_argument("--max-emotions", type=int, metavar="N", help="only the N strongest emotions of every frame")
    shaping.add_argument("--mood", metavar="NAME", help="an emotion that all is drawn to")
    shaping.add_argument("--mood-share", type=float, metavar="X", help="how far, 0 to 1 (default: 0.5)")
    shaping.add_argument("--transition", type=float, metavar="SECONDS", help="time that changes take: 63%% of them in SECONDS")
    shaping.add_argument("--strength", type=float, metavar="X", help="factor on all emotions: 0 a neutral face, 1 as they are")
    shaping.add_argument(
        "--keys",
        metavar="FILE",
        help='JSON of emotions at times in seconds, over all: {"keys": [{"time": 0, "happy": 0.8}, {"time": 2, "sad": 1}], '
        '"interpolation": "linear|smooth|hold", "mode": "override|blend", "weight": 0.5, "extent": "all|keys", "fade": 0.2}',
    )


def run_animate(arguments: argparse.Namespace) -> None:
    """animate: audio to video and vertices."""
    from sedtalker_jax.inference.pipeline import SEDTalker
    from sedtalker_jax.speech import load_audio

    targets = [check_output(path, ANIMATION_SUFFIXES) for path in arguments.out]
    files = ("audio", "template", "track", "style", "embedding", "keys", "basis")
    read = [getattr(arguments, name) for name in files]
    check_distinct(targets, read)
    given = [flag for flag in ("track", "emotion", "trajectory") if getattr(arguments, flag) is not None]
    if len(given) > 1:
        raise UserError(f"{' and '.join(f'--{flag}' for flag in given)} each say what the face feels; give one of them")
    if arguments.intensity is not None and given in ([], ["track"]):
        raise UserError("--intensity: says how strong --emotion or --trajectory is; give one of them too")
    if arguments.intensity is not None and not 0.0 <= arguments.intensity <= 1.0:
        raise UserError(f"--intensity {arguments.intensity}: must lie between 0 and 1")
    check_size(arguments.size)
    shaped = _given_shaping(arguments)
    waveform = load_audio(arguments.audio)
    model = SEDTalker.load(arguments.checkpoint)
    track = _given_track(arguments, model, len(waveform))
    face = given_face(arguments, model)
    basis = given_basis(arguments, face, targets)
    model, subject = given_manner(arguments, model)
    embedding = given_embedding(arguments, model)
    with about(arguments.audio):
        if shaped is not None:
            track = shaped(model.diarize(waveform, given_embedding=embedding) if track is None else track)
        animation = model.animate(waveform, track, template=face, subject=subject, given_embedding=embedding)
    for target in targets:
        print(write_animation(target, animation, waveform, size=arguments.size, basis=basis))


def _given_track(arguments: argparse.Namespace, model: SEDTalker, num_samples: int) -> EmotionTrack | None:
    """The track that the flags of animate name, None when the diarizer is to be heard."""
    if arguments.emotion is None and arguments.trajectory is None:
        return given_track(arguments, model, num_samples)
    flag = "trajectory" if arguments.emotion is None else "emotion"
    asked = getattr(arguments, flag)
    names = [asked] if flag == "emotion" else asked.split(",")
    return named_track(flag, names, arguments.intensity, model, num_samples)


def _given_shaping(arguments: argparse.Namespace) -> Callable[[EmotionTrack], EmotionTrack] | None:
    """What the flags of shaping do to a track, None without any."""
    from sedtalker_jax.emotion.labels import NEUTRAL, resolve_label
    from sedtalker_jax.emotion.shaping import EmotionKeys, ShapedTrack, Shaping

    if arguments.mood_share is not None and arguments.mood is None:
        raise UserError("--mood-share: says how far to go to a --mood; give one of them too")
    if arguments.mood_share is not None and not 0.0 <= arguments.mood_share <= 1.0:
        raise UserError(f"--mood-share {arguments.mood_share}: must lie between 0 and 1")
    names = ("contrast", "max_emotions", "transition", "strength")
    given = {name: value for name in names if (value := getattr(arguments, name)) is not None}
    if arguments.mood_share is not None:
        given["preferred_strength"] = arguments.mood_share
    if arguments.mood is not None:
        # Neutral is the absence of the others.
        given["preferred"] = {arguments.mood: 0.0 if resolve_label(arguments.mood) == NEUTRAL else 1.0}
    keys = None if arguments.keys is None else EmotionKeys.load(arguments.keys)
    if not given and keys is None:
        return None
    with about("shaping"):
        shaping = Shaping(**given)
    return lambda track: ShapedTrack.of(track, shaping, keys)


def run_prepare(arguments: argparse.Namespace) -> None:
    """prepare: a corpus to records."""
    from sedtalker_jax.data import prepare

    if arguments.corpus == "help":
        print(prepare.describe())
        return
    if not arguments.root or not arguments.out:
        raise UserError("prepare needs --root (the unpacked corpus) and --out (the record directory to build)")
    options = dict(option.partition("=")[::2] for option in arguments.option)
    manifest = prepare.prepare(
        arguments.corpus,
        arguments.root,
        arguments.out,
        workers=arguments.workers,
        licence=arguments.licence,
        limit=arguments.limit,
        fold=arguments.fold,
        options=options,
        overwrite=arguments.overwrite,
        progress=not arguments.quiet,
    )
    print(f"{arguments.out}: {prepare.summary_line(manifest)}")


def run_convert(arguments: argparse.Namespace) -> None:
    """convert: encoder checkpoints."""
    from sedtalker_jax.speech.pretrained import convert

    convert(arguments.source, arguments.out)
    print(f"{arguments.out}: written")
