"""The world's report: is it as hard as it claims, and do its faces look like faces?

    python -m sedtalker_jax.data.world.report --rules configs/world_rules.toml --out runs/world-report

Writes report.json and report.md (numbers), histograms.png, confusion.png, heads.png (heads at rest), expressions.png
(emotions x intensities), and some clips as video.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from sedtalker_jax.data.records import encode_record, write_json
from sedtalker_jax.data.world import calibration
from sedtalker_jax.data.world.clip import World, articulate_clip, make_record, plan_clip, sample_rig, speak
from sedtalker_jax.data.world.clock import num_speech_frames, speech_frame_times
from sedtalker_jax.data.world.pool import WorldPool
from sedtalker_jax.data.world.rules import SPLITS, Rules, load_rules
from sedtalker_jax.data.world.timeline import frame_truth
from sedtalker_jax.emotion.labels import ACTIVE, CANONICAL, COLOURS
from sedtalker_jax.errors import UserError, exit_code
from sedtalker_jax.face.rig import NUM_WEIGHTS


def clip_summary(world: World, split: str, index: int) -> dict[str, Any]:
    """Durations, labels and intensities of a clip, for histograms."""
    clip = speak(world, plan_clip(world, split, index), distort=False)
    times = speech_frame_times(num_speech_frames(len(clip.waveform)))
    truth = frame_truth(world.rules, clip.curve, clip.words, times, clip.duration_s)
    return {
        "duration_s": clip.duration_s,
        "segments": truth.segments,
        "frames": np.bincount(truth.emotion + 1, minlength=len(CANONICAL) + 1).tolist(),
        "intensity": truth.intensity[~np.isnan(truth.intensity)][::10].tolist(),
    }


def generation_speed(world: World, num_clips: int = 60) -> dict[str, float]:
    """Seconds of speech made per second of processor time, by one core: sound alone, and whole records as they are stored.

    Processor time and not the clock's, so that other work on the machine does not count; the synthesiser's program and its
    start are included, the heads' making and the face space's fit, which happen once, are not.
    """
    space = world.faces.space
    if space is None:
        space = world.faces.fit_space([sample_rig(world, index, 12) for index in range(8)])
    world.faces.space = space
    plans = [plan_clip(world, "train", index) for index in range(num_clips)]
    for plan in plans:
        world.faces.coefficients("train", plan.head, np.zeros((1, NUM_WEIGHTS), np.float32))
    articulate_clip(world, speak(world, plans[0]))  # makes the babble and the head's style
    world.close()  # a finished child's time is counted, a running one's is not
    started = _processor_s()
    clips = [speak(world, plan) for plan in plans]
    world.close()
    sound = _processor_s() - started
    started = _processor_s()
    for clip in clips:
        encode_record(make_record(world, clip))
    face = _processor_s() - started
    seconds = sum(clip.duration_s for clip in clips)
    return {"sound": seconds / sound, "whole": seconds / (sound + face)}


def _processor_s() -> float:
    """Processor time of this process and of its finished children so far, in seconds."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _speed_job(world: World) -> dict[str, float]:
    return generation_speed(world)


def _histograms(path: Path, summaries: list[dict[str, Any]], title: str) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.4), layout="constrained")
    axes = figure.subplots(1, 3)
    axes[0].hist([summary["duration_s"] for summary in summaries], bins=24, color="#4878a8")
    axes[0].set(xlabel="duration of clips, s", ylabel="clips")
    counts = np.sum([summary["frames"] for summary in summaries], axis=0)[1:]
    axes[1].bar(CANONICAL, counts / counts.sum(), color=[COLOURS[label] for label in CANONICAL])
    axes[1].axhline(1 / len(CANONICAL), color="black", linewidth=0.7)
    axes[1].tick_params(axis="x", rotation=60)
    axes[1].set(ylabel="share of labelled frames")
    levels = np.concatenate([summary["intensity"] for summary in summaries])
    axes[2].hist(levels[levels > 0], bins=24, color="#4878a8")
    axes[2].set(xlabel="voice intensity of frames above 0", ylabel="frames / 10")
    figure.suptitle(title)
    figure.savefig(path, dpi=110)


def _confusion(path: Path, observer: calibration.Observer, title: str) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2, 4.6), layout="constrained")
    axes = figure.subplots()
    share = observer.confusion / observer.confusion.sum(axis=1, keepdims=True)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for row in range(len(CANONICAL)):
        for column in range(len(CANONICAL)):
            value = share[row, column]
            axes.text(column, row, f"{100 * value:.0f}", ha="center", va="center", color="white" if value > 0.5 else "black")
    axes.set_xticks(range(len(CANONICAL)), CANONICAL, rotation=60)
    axes.set_yticks(range(len(CANONICAL)), CANONICAL)
    axes.set(xlabel="ideal observer", ylabel="truth", title=title)
    figure.savefig(path, dpi=110)


def _pictures(out: Path, world: World, num_heads: int) -> None:
    """heads.png and expressions.png: what a person should look at."""
    from PIL import Image

    from sedtalker_jax.face.articulation import expression_weights
    from sedtalker_jax.face.colours import head_colours
    from sedtalker_jax.face.render import render_sheet

    cast = [(split, i) for split in SPLITS for i in range(world.faces.num_heads(split))][:num_heads]
    heads = [world.faces.head(*member) for member in cast]
    faces = heads[0].template.faces
    shown = [render_sheet([[head.template.vertices]], faces, 176, colours=[head_colours(head.seed)]) for head in heads]
    shown += [np.full_like(shown[0], 255)] * (-len(shown) % 8)
    rows = [np.concatenate(shown[i : i + 8], axis=1) for i in range(0, len(shown), 8)]
    Image.fromarray(np.concatenate(rows, axis=0)).save(out / "heads.png")
    sheet, labels, colours = [], [], []
    for head in (world.faces.head(split, 0) for split in SPLITS):
        for level in (0.35, 0.7, 1.0):
            activation = np.concatenate([np.zeros((1, len(ACTIVE))), level * np.eye(len(ACTIVE))])
            weights = expression_weights(activation, head.style, world.faces.face_rules)
            sheet.append(list(head.vertices(weights)))
            labels.append(f"{level:.2f}")
            colours.append(head_colours(head.seed))
    picture = render_sheet(sheet, faces, 170, row_labels=labels, column_labels=CANONICAL, colours=colours)
    Image.fromarray(picture).save(out / "expressions.png")


def _videos(out: Path, world: World, count: int, show: bool) -> list[dict[str, str]]:
    """Renders test clips with a change of emotion, with sound and the voice's truth as a strip."""
    from sedtalker_jax.emotion.track import EmotionTrack
    from sedtalker_jax.face.articulation import blinks
    from sedtalker_jax.face.colours import head_colours
    from sedtalker_jax.face.rig import INDEX, with_correctives
    from sedtalker_jax.face.video import write_video

    made = []
    for index in range(world.num_clips("test")):
        if len(made) == count:
            break
        plan = plan_clip(world, "test", index)
        if not any(plan.timeline.changes):
            continue
        clip = speak(world, plan)
        _, rig = articulate_clip(world, clip)
        for name in ("eyeBlinkLeft", "eyeBlinkRight"):
            rig[:, INDEX[name]] = np.maximum(rig[:, INDEX[name]], blinks(len(rig), world.rules.fps, index))
        head = world.faces.head("test", plan.head)
        times = speech_frame_times(num_speech_frames(len(clip.waveform)))
        truth = frame_truth(world.rules, clip.curve, clip.words, times, clip.duration_s)
        intensity = {
            label: float(np.nanmean(truth.intensity[truth.emotion == i]))
            for i, label in enumerate(CANONICAL)
            if (truth.emotion == i).any()
        }
        segments = [(start, end, label, intensity.get(label, 0.0)) for start, end, label in truth.segments]
        path = out / f"{plan.name}.mp4"
        write_video(
            path, head.vertices(with_correctives(rig)), head.template.faces, world.rules.fps, clip.waveform,
            EmotionTrack.from_segments(segments, duration=clip.duration_s), title=plan.text, size=384, progress=show,
            colours=head_colours(head.seed),
        )  # fmt: skip
        made.append({"file": path.name, "says": plan.text, "voice": plan.voice.name})
    return made


def _markdown(report: dict[str, Any]) -> str:
    mixed, full = report["ideal_observer"]["mixed"], report["ideal_observer"]["full"]
    joins, additive, speed = report["joins"], report["additive_residual"], report["speed"]

    def row(name: str, observer: dict[str, Any]) -> str:
        low, high = observer["interval"]
        return (
            f"| {name} | {100 * observer['accuracy']:.1f}% ({100 * low:.1f}-{100 * high:.1f}) | "
            f"{100 * observer['without_voice']:.1f}% | {100 * observer['true_parameters']:.1f}% |"
        )

    lines = [
        f"# World {report['world']} {report['world_hash']}",
        "",
        "Ideal observer: random forest on seven prosody statistics of single-emotion clips, eight balanced classes, "
        f"cross-validated by voice, {mixed['num_clips']} clips of {mixed['num_voices']} training voices each. Chance is 12.5%. "
        "People reach 40.9% on CREMA-D's audio (six classes; Cao et al. 2014).",
        "",
        "| intensity | voice known (95% interval over voices) | voice unknown | true prosody parameters |",
        "|---|---|---|---|",
        row("mixed", mixed),
        row("full", full),
        "",
        "- Told right at mixed intensity, by emotion: "
        + ", ".join(f"{label} {100 * share:.0f}%" for label, share in sorted(mixed["recall"].items(), key=lambda item: item[1]))
        + ".",
        f"- Joins: balanced accuracy {100 * joins['balanced_accuracy']:.1f}% at telling a change from none by the 100 ms round "
        f"{joins['joins']} joins, {100 * joins['changed']:.0f}% of them with a change (goal: at most 55%).",
        f"- Speech and expression do not add: the best additive model leaves {100 * additive['mouth']:.0f}% of the "
        f"expression's energy at the mouth (goal: at least 10%), {100 * additive['upper_face']:.0f}% in the upper face.",
        f"- Speed on one core: {speed['sound']:.0f} times real time for sound, {speed['whole']:.0f} for whole records.",
        f"- Clips: {report['clips']['mean_duration_s']:.2f} s on average; share of frames "
        + ", ".join(f"{label} {100 * share:.0f}%" for label, share in report["clips"]["label_share"].items())
        + f"; {100 * report['clips']['with_change']:.0f}% of clips change emotion.",
        "",
        "![histograms](histograms.png) ![confusion](confusion.png)",
        "![heads](heads.png) ![expressions](expressions.png)",
        "",
        *(f"- [{video['file']}]({video['file']}): {video['says']} ({video['voice']})" for video in report["videos"]),
    ]
    return "\n".join(lines) + "\n"


def make_report(
    rules: Rules, out: str | Path, workers: int = 2, takes: int = 4, clips: int = 600, videos: int = 3, show: bool = True
) -> dict[str, Any]:
    """Measures the world and writes the report into `out`; returns the numbers.

    Args:
      takes: clips per voice and emotion for the ideal observer.
      clips: clips for histograms and the join test.
      videos: clips rendered to video; 0 leaves out all pictures of faces.

    Raises:
      UserError: when `out` cannot be written, or rendering is not possible here.
    """
    out = Path(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write the report to {out}: {error.strerror}; give another --out") from error
    observers = {}
    for name in ("mixed", "full"):
        own = calibration.calibration_rules(rules, full_intensity=name == "full")
        with WorldPool(workers, own, calibration.SUBSET) as pool:
            num_voices = own["subsets"][calibration.SUBSET]["voices"]["train"]
            observers[name] = calibration.ideal_observer(pool.map, num_voices, f"{name} intensity" if show else None, takes)
    subset = "full" if "full" in rules["subsets"] else next(iter(rules["subsets"]))
    clips = min(clips, rules["subsets"][subset]["clips"]["train"])
    jobs = [("train", index) for index in range(clips)]
    with WorldPool(workers, rules, subset) as pool:
        summaries = list(pool.map(clip_summary, jobs, "histograms" if show else None))
        windows = [w for own in pool.map(calibration.join_windows, jobs, "joins" if show else None) for w in own]
        residuals = list(pool.map(calibration.additive_residual, [(i,) for i in range(12)], "additivity" if show else None))
        speed = next(pool.map(_speed_job, [()]))
    frames = np.sum([summary["frames"] for summary in summaries], axis=0)[1:]
    report: dict[str, Any] = {
        "world": rules["name"],
        "world_hash": rules.world_hash,
        "ideal_observer": {
            name: {
                "accuracy": observer.accuracy,
                "interval": observer.interval,
                "without_voice": observer.without_voice,
                "true_parameters": observer.true_parameters,
                "recall": observer.recall,
                "importance": observer.importance,
                "confusion": observer.confusion.tolist(),
                "num_voices": observer.num_voices,
                "num_clips": observer.num_clips,
            }
            for name, observer in observers.items()
        },
        "joins": calibration.join_detectability(windows),
        "additive_residual": {key: float(np.median([r[key] for r in residuals])) for key in residuals[0]},
        "speed": speed,
        "clips": {
            "mean_duration_s": float(np.mean([summary["duration_s"] for summary in summaries])),
            "label_share": dict(zip(CANONICAL, (frames / frames.sum()).tolist(), strict=True)),
            "with_change": float(np.mean([len({s[2] for s in summary["segments"]}) > 1 for summary in summaries])),
        },
        "videos": [],
    }
    title = f"{rules['name']} {rules.world_hash}"
    _histograms(out / "histograms.png", summaries, title)
    _confusion(out / "confusion.png", observers["mixed"], f"{title}: {100 * observers['mixed'].accuracy:.1f}%")
    if videos > 0:
        world = World(rules, subset)
        try:
            _pictures(out, world, 40)
            report["videos"] = _videos(out, world, videos, show)
        finally:
            world.close()
    write_json(out / "report.json", report)
    (out / "report.md").write_text(_markdown(report))
    return report


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m sedtalker_jax.data.world.report", description=__doc__.split("\n\n")[0], allow_abbrev=False
    )
    parser.add_argument("--rules", default="configs/world_rules.toml", help="rules file (default: %(default)s)")
    parser.add_argument("--out", required=True, help="directory for the report")
    parser.add_argument("--workers", type=int, default=2, help="processes (default: %(default)s)")
    parser.add_argument("--takes", type=int, default=4, help="clips per voice and emotion (default: %(default)s)")
    parser.add_argument("--clips", type=int, default=600, help="clips for histograms and joins (default: %(default)s)")
    parser.add_argument("--videos", type=int, default=3, help="clips to render; 0: no faces at all (default: %(default)s)")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    flags = parser.parse_args(arguments)

    def run():
        report = make_report(
            load_rules(flags.rules), flags.out, flags.workers, flags.takes, flags.clips, flags.videos, not flags.quiet
        )
        print(_markdown(report))
        print(f"written to {flags.out}: report.md, report.json and pictures", file=sys.stderr)

    return exit_code(run)


if __name__ == "__main__":
    sys.exit(main())
