"""Plots of an evaluation, and a page that holds them: one HTML file with everything inside."""

from __future__ import annotations

import base64
import html
import io
import os
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from sedtalker_jax.emotion.formats import Segment, replace_when_complete, write_text
from sedtalker_jax.emotion.labels import colour
from sedtalker_jax.emotion.track import EmotionTrack
from sedtalker_jax.evaluation.emotion_metrics import Reliability, row_normalised_confusion
from sedtalker_jax.evaluation.table import ScoreTable

_LINE_COLOURS = ("#1b5e9b", "#c2571a", "#3f7d3a", "#7b4fa3", "#8c564b", "#5f6368")
_TRUTH_COLOUR = "#202124"


def confusion_figure(counts: Int[np.ndarray, "K K"], labels: Sequence[str], title: str = "Emotion per frame") -> Figure:
    """Row-normalised confusion matrix: rows are true emotions with their share of frames, columns predicted ones."""
    shares = row_normalised_confusion(counts)
    support = np.asarray(counts).sum(axis=1)
    figure = new_figure(1.6 + 0.75 * len(labels), 1.3 + 0.6 * len(labels))
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for row in range(len(labels)):
        for column in range(len(labels)):
            shade = "white" if shares[row, column] > 0.55 else "#202124"
            axes.text(column, row, f"{100 * shares[row, column]:.0f}", ha="center", va="center", color=shade, fontsize=9)
    total = max(int(support.sum()), 1)
    axes.set_xticks(range(len(labels)), labels, rotation=35, ha="right")
    axes.set_yticks(range(len(labels)), [f"{n} ({100 * s / total:.0f}%)" for n, s in zip(labels, support, strict=True)])
    axes.set_xlabel("predicted")
    axes.set_ylabel("true (share of frames)")
    axes.set_title(title)
    figure.colorbar(image, ax=axes, label="share of the true emotion's frames")
    return figure


def f1_figure(table: ScoreTable, title: str = "F1 by emotion") -> Figure:
    """One bar per emotion in its colour, with its interval where there is one.

    Args:
      table: precision, recall and F1 of each emotion, EmotionScores.per_emotion.
    """
    figure = new_figure(1.6 + 0.75 * len(table.rows), 3.6)
    axes = figure.subplots()
    for place, row in enumerate(table.rows):
        f1 = row.values["f1"]
        axes.bar(place, f1.value, color=colour(row.metric), width=0.7)
        if np.isfinite([f1.low, f1.high]).all():
            # A percentile interval need not hold the score itself: then its bar ends there.
            reach = [[max(0.0, f1.value - f1.low)], [max(0.0, f1.high - f1.value)]]
            axes.errorbar(place, f1.value, reach, color="#202124", linewidth=1, capsize=4)
        axes.text(place, 0.02, f"{f1.value:.2f}", ha="center", va="bottom", fontsize=9)
    axes.set_xticks(range(len(table.rows)), [row.metric for row in table.rows], rotation=35, ha="right")
    axes.set(ylim=(0, 1), ylabel="F1 (95% interval)", title=title)
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    return figure


def emotion_strip_figure(
    rows: Mapping[str, EmotionTrack | Sequence[Segment]], duration: float, title: str = "Emotion over time"
) -> Figure:
    """One coloured strip per row (truth, prediction, ...); intensity is the height of the darker part where it is known.

    Args:
      rows: name -> track, or segments (start_s, end_s, label[, intensity]).
      duration: seconds shown.
    """
    figure = new_figure(10, 0.9 + 0.75 * len(rows))
    axes = figure.subplots()
    shown: list[str] = []
    for position, (_, content) in enumerate(rows.items()):
        segments = content.segments() if isinstance(content, EmotionTrack) else [Segment(*row) for row in content]
        for segment in segments:
            if segment.label not in shown:
                shown.append(segment.label)
            width, shade = segment.end - segment.start, colour(segment.label)
            axes.broken_barh([(segment.start, width)], (position - 0.4, 0.8), facecolor=shade, alpha=0.35, linewidth=0)
            if not isinstance(content, EmotionTrack):
                strength = 1.0 if np.isnan(segment.intensity) else segment.intensity
                axes.broken_barh([(segment.start, width)], (position + 0.4, -0.8 * strength), facecolor=shade, linewidth=0)
        if isinstance(content, EmotionTrack):
            _draw_intensity(axes, content, position)
    axes.set_yticks(range(len(rows)), list(rows))
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(0, duration)
    axes.set_xlabel("time [s]")
    axes.set_title(title)
    handles = [Patch(facecolor=colour(label), label=label) for label in shown]
    if handles:
        figure.legend(handles=handles, loc="outside right center", frameon=False)
    return figure


def curves_figure(
    curves: Mapping[str, Float[np.ndarray, " F"]],
    fps: float,
    title: str,
    label: str,
    marked: Sequence[tuple[float, float]] = (),
    marked_label: str = "",
) -> Figure:
    """Curves over time on one axis: lip distance, error, opening. A curve called "truth" is drawn dark.

    Args:
      curves: name -> values per animation frame; frame f lies at f / fps s.
      label: of the value axis, with its unit.
      marked: (start_s, end_s) shaded behind the curves, p b m closures for instance.
    """
    figure = new_figure(10, 3.2)
    axes = figure.subplots()
    for index, (start, end) in enumerate(marked):
        axes.axvspan(start, end, color="#f2b701", alpha=0.25, linewidth=0, label=marked_label if index == 0 else None)
    colours = iter(_LINE_COLOURS * (1 + len(curves) // len(_LINE_COLOURS)))
    for name, values in curves.items():
        shade = _TRUTH_COLOUR if name == "truth" else next(colours)
        axes.plot(np.arange(len(values)) / fps, values, color=shade, linewidth=1.4, label=name)
    axes.set_xlabel("time [s]")
    axes.set_ylabel(label)
    axes.set_title(title)
    axes.set_xlim(0, max((len(values) - 1) / fps for values in curves.values()))
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right center", frameon=False)
    return figure


def lip_distance_figure(
    curves_m: Mapping[str, Float[np.ndarray, " F"]], fps: float, phonemes: Sequence[Sequence] = (), title: str = "Lip distance"
) -> Figure:
    """Lip-distance curves in millimetres (given in metres), with p, b and m shaded when phonemes are given."""
    closures = [(start, end) for symbol, start, end, *_ in phonemes if symbol in ("p", "b", "m")]
    scaled = {name: 1000 * np.asarray(values) for name, values in curves_m.items()}
    return curves_figure(scaled, fps, title, "lip distance [mm]", closures, "p b m")


def error_over_time_figure(
    curves_m2: Mapping[str, Float[np.ndarray, " F"]], fps: float, title: str = "Largest lip error per frame"
) -> Figure:
    """Per-frame errors in millimetres, from max_squared_error_per_frame curves in metres^2."""
    rooted = {name: 1000 * np.sqrt(np.asarray(values)) for name, values in curves_m2.items()}
    return curves_figure(rooted, fps, title, "error [mm]")


def reliability_figure(bins: Mapping[str, Reliability], title: str = "Calibration") -> Figure:
    """Accuracy against confidence with the diagonal, and below how many frames each bin holds."""
    figure = new_figure(4.6, 5.2)
    top, bottom = figure.subplots(2, 1, height_ratios=[3, 1], sharex=True)
    top.plot([0, 1], [0, 1], color="#9aa0a6", linestyle="--", linewidth=1)
    for shade, (name, content) in zip(_LINE_COLOURS, bins.items(), strict=False):
        label = f"{name} (ECE {content.expected_calibration_error:.3f})"
        filled = content.count > 0
        top.plot(content.confidence[filled], content.accuracy[filled], "o-", color=shade, markersize=4, label=label)
        middles = (content.edges[1:] + content.edges[:-1]) / 2
        bottom.step(middles, content.count / max(content.count.sum(), 1), where="mid", color=shade)
    top.set_ylabel("accuracy")
    top.set_ylim(0, 1)
    top.set_title(title)
    top.legend(frameon=False, fontsize=8)
    top.grid(alpha=0.3)
    bottom.set_xlabel("confidence")
    bottom.set_ylabel("share")
    bottom.set_xlim(0, 1)
    return figure


def intensity_figure(
    labels: Sequence[str], reference: Float[np.ndarray, " n"], hypothesis: Float[np.ndarray, " n"], title: str = "Intensity"
) -> Figure:
    """Predicted against true intensity, one dot per segment in its emotion's colour."""
    figure = new_figure(5.6, 4.6)
    axes = figure.subplots()
    names = np.asarray(labels)
    for name in dict.fromkeys(names.tolist()):
        own = names == name
        true, guess = np.asarray(reference)[own], np.asarray(hypothesis)[own]
        axes.scatter(true, guess, label=name, s=14, color=colour(name), alpha=0.7, linewidths=0)
    axes.plot([0, 1], [0, 1], color="#9aa0a6", linestyle="--", linewidth=1)
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="true intensity", ylabel="predicted intensity", title=title)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right center", frameon=False)
    return figure


def heat_map_figure(
    template: Float[np.ndarray, "V 3"],
    errors_mm: Mapping[str, Float[np.ndarray, " V"]],
    faces: Int[np.ndarray, "M 3"] | None = None,
    title: str = "Mean error per vertex",
) -> Figure:
    """Each system's error on the face seen from the front, all on one colour scale.

    Args:
      template: neutral vertices in metres, looking to +z with +y up.
      errors_mm: system -> error of every vertex in millimetres (PeerScores.vertex_error_mm).
      faces: triangles; without them the vertices are drawn as dots.
    """
    positions = np.asarray(template, np.float64) * 1000
    x, y, z = positions.T
    largest = max(float(np.percentile(values, 99.5)) for values in errors_mm.values()) or 1.0
    scale = dict(cmap="YlOrRd", vmin=0, vmax=largest)
    figure = new_figure(1.2 + 3.4 * len(errors_mm), 4.4)
    panels = np.atleast_1d(figure.subplots(1, len(errors_mm)))
    for axes, (name, values) in zip(panels, errors_mm.items(), strict=True):
        if faces is None:
            order = np.argsort(z)
            order = order[z[order] > np.median(z)]
            drawn = axes.scatter(x[order], y[order], c=np.asarray(values)[order], s=9, linewidths=0, **scale)
        else:
            # Thin edges let eyes, nose and mouth be seen without a light.
            visible = _visible_triangles(positions, np.asarray(faces))
            drawn = axes.tripcolor(x, y, visible, np.asarray(values), edgecolors="#00000040", linewidth=0.2, **scale)
        axes.set_aspect("equal")
        axes.set_axis_off()
        axes.set_title(f"{name}: {np.mean(values):.2f} mm", fontsize=10)
    figure.suptitle(title)
    figure.colorbar(drawn, ax=list(panels), label="mm", shrink=0.8)
    return figure


def figure_png(figure: Figure, dpi: int = 110) -> bytes:
    """The figure as PNG bytes, without any date inside, so that equal figures are equal bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


def save_figure(figure: Figure, path: str | os.PathLike) -> None:
    """Writes a PNG file; an older one is replaced only by a whole one.

    Raises:
      UserError: the place can't be written.
    """
    data = figure_png(figure)
    with replace_when_complete(path) as temporary:
        temporary.write_bytes(data)


def write_report(
    path: str | os.PathLike,
    title: str,
    tables: Sequence[ScoreTable],
    figures: Mapping[str, Figure],
    info: Mapping[str, object] | None = None,
) -> None:
    """Writes one HTML page with tables and figures inside it: nothing else has to travel along.

    Args:
      figures: caption -> figure; underscores are shown as spaces, so that file names can serve.
      info: facts about the run, listed under the title.

    Raises:
      UserError: the place can't be written.
    """
    facts = "".join(f"<dt>{html.escape(str(k))}</dt><dd>{html.escape(str(v))}</dd>" for k, v in (info or {}).items())
    images = ""
    for caption, figure in figures.items():
        shown, picture = html.escape(caption.replace("_", " "), quote=True), base64.b64encode(figure_png(figure)).decode()
        images += f"<figure><img alt='{shown}' src='data:image/png;base64,{picture}'><figcaption>{shown}</figcaption></figure>"
    body = f"<h1>{html.escape(title)}</h1><dl>{facts}</dl>{''.join(table.html() for table in tables)}{images}"
    page = f"<!doctype html>\n<html lang='en'><head><meta charset='utf-8'><title>{html.escape(title)}</title>"
    write_text(path, f"{page}<style>{PAGE_STYLE}</style></head><body>{body}</body></html>\n")


PAGE_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;color:#202124;max-width:1080px;margin:2em auto;padding:0 1em}"
    "table{border-collapse:collapse;margin:1.5em 0;font-variant-numeric:tabular-nums;display:block;overflow-x:auto}"
    "caption{text-align:left;font-weight:600;padding:.3em 0}"
    "th,td{padding:.3em .8em;white-space:nowrap;border-bottom:1px solid #dadce0;text-align:right}"
    "th:first-child,td:first-child{text-align:left;font-family:ui-monospace,monospace;font-size:13px}"
    "td:nth-child(2){font-weight:600}.note{color:#5f6368;font-size:13px}"
    "dl{display:grid;grid-template-columns:max-content auto;gap:.1em 1em}dt{color:#5f6368}dd{margin:0}"
    "figure{margin:1.5em 0}img{max-width:100%}figcaption{color:#5f6368;font-size:13px}"
)


def _draw_intensity(axes, track: EmotionTrack, position: int) -> None:
    path = track.path()
    half = 0.5 / track.frame_rate
    edges = np.r_[track.times - half, track.times[-1:] + half]
    for index in np.unique(path):
        strength = np.where(np.isnan(track.intensity), 1.0, track.intensity) * (path == index)
        heights = np.r_[strength, strength[-1:]]
        bottom = position + 0.4
        axes.fill_between(edges, bottom, bottom - 0.8 * heights, step="post", color=colour(track.labels[index]), linewidth=0)


def _visible_triangles(positions: np.ndarray, faces: np.ndarray) -> np.ndarray:
    corners = positions[faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    facing = faces[normals[:, 2] > 0]
    # Painted from back to front, so that near triangles cover far ones.
    return facing[np.argsort(positions[facing, 2].mean(axis=1))]


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of that many inches, made without pyplot: no global state, no window system."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure
