"""The embedding space around an edit: emotions, the boundary between two of them, and the way the edit takes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sedtalker_jax.emotion.editing import EditDictionary
from sedtalker_jax.emotion.labels import colour
from sedtalker_jax.emotion.schedule import EditSchedule
from sedtalker_jax.errors import UserError
from sedtalker_jax.evaluation.report import new_figure


def edit_plane(
    dictionary: EditDictionary, embeddings: Float[np.ndarray, "n C"], target: str, source: str | None = None
) -> tuple[Float[np.ndarray, "n 2"], Float[np.ndarray, "C 2"], float]:
    """Whitened embeddings in the plane of an edit.

    The first axis is the boundary's unit normal, so the boundary stands upright in the plane and distances to it are true; the
    second is the direction of largest variance across it.

    Returns:
      (coordinates [n, 2], the two axes [C, 2] in whitened space, where the boundary crosses the first axis).

    Raises:
      UserError: an emotion without boundaries.
    """
    direction = dictionary.direction(target, source)
    z = dictionary.whiten(embeddings)
    across = z - (z @ direction.normal)[:, None] * direction.normal
    second = np.linalg.svd(across - across.mean(axis=0), full_matrices=False)[2][0]
    # Taken off once more: rounding must not leave a trace of the normal in the second axis.
    second = second - (second @ direction.normal) * direction.normal
    axes = np.stack([direction.normal, second / np.linalg.norm(second)], axis=1)
    return z @ axes, axes, direction.offset


def edit_figure(
    dictionary: EditDictionary,
    embeddings: Float[np.ndarray, "n C"],
    emotions: Sequence[str],
    target: str,
    source: str | None = None,
    path: tuple[Float[np.ndarray, "T C"], Float[np.ndarray, "T C"]] | None = None,
) -> Figure:
    """Segments as dots in their emotion's colour, the boundary, and the frames of a recording before and after the edit.

    Args:
      embeddings, emotions: labelled rows to show as background, the ones that the dictionary was fitted on for instance.
      target, source: the edit's emotions.
      path: (before, after) the edit, frame by frame.

    Raises:
      UserError: an emotion without boundaries.
    """
    figure = new_figure(7, 5)
    axes = figure.subplots()
    _draw(axes, dictionary, embeddings, emotions, target, source, path)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right center", frameon=False)
    return figure


def edits_figure(
    dictionary: EditDictionary,
    schedule: EditSchedule,
    path: tuple[Float[np.ndarray, "T C"], Float[np.ndarray, "T C"]],
) -> Figure:
    """One plane, as in edit_figure, for each pair of emotions that a schedule names, before the dictionary's own segments.

    Args:
      path: (before, after) all edits together, frame by frame.

    Raises:
      UserError: an emotion without boundaries, or a schedule without edits.
    """
    pairs = list(dict.fromkeys((edit.target, edit.source) for edit in schedule.edits))
    if not pairs:
        raise UserError("the schedule holds no edits: there is no way to draw")
    figure = new_figure(1.5 + 5.0 * len(pairs), 5)
    panels = figure.subplots(1, len(pairs), squeeze=False)[0]
    for axes, (target, source) in zip(panels, pairs, strict=True):
        _draw(axes, dictionary, dictionary.examples, dictionary.example_emotions, target, source, path)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right center", frameon=False)
    return figure


def _draw(axes: Axes, dictionary: EditDictionary, embeddings, emotions, target: str, source: str | None, path) -> None:
    coordinates, axes_2d, threshold = edit_plane(dictionary, embeddings, target, source)
    names = np.asarray(emotions)
    for name in dict.fromkeys(names.tolist()):
        own = names == name
        strong = name in (target, source)
        x, y = coordinates[own].T
        axes.scatter(x, y, s=16 if strong else 8, color=colour(name), alpha=0.8 if strong else 0.25, linewidths=0)
        # The mean carries the legend's entry: most dots are too faint to tell their colour there.
        mean = coordinates[own].mean(axis=0)
        axes.scatter(*mean, s=90, color=colour(name), edgecolors="#202124", marker="D", zorder=4, label=name)
    axes.axvline(threshold, color="#202124", linestyle="--", linewidth=1, label="boundary")
    if path is not None:
        before, after = (dictionary.whiten(frames) @ axes_2d for frames in path)
        axes.plot(*before.T, color="#202124", linewidth=0.8, alpha=0.5, label="as heard")
        axes.plot(*after.T, color="#c2571a", linewidth=1.2, label="edited")
        moved = np.linalg.norm(after - before, axis=1)
        if moved.max(initial=0.0) > 0:
            index = int(np.argmax(moved))
            arrow = dict(arrowstyle="-|>", mutation_scale=16, color="#202124", linewidth=1.6, shrinkA=0, shrinkB=0)
            axes.annotate("", xy=after[index], xytext=before[index], arrowprops=arrow, zorder=5)
    axes.set_xlabel(f"towards {target} (along the boundary's normal, whitened)")
    axes.set_ylabel("largest variance across it")
    axes.set_title(f"{source or 'others'} to {target}")
    axes.grid(alpha=0.3)
