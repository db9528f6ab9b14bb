"""How hard the world is: the ideal observer, what joins give away, and how much of a face is not a sum.

Difficulty is set in the rules before anything is trained, by these numbers and not by any model's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.fft

from sedtalker_jax.data.world.clip import World, articulate_clip, plan_clip, speak
from sedtalker_jax.data.world.clock import SAMPLE_RATE
from sedtalker_jax.data.world.prosody import STATISTICS, normalise_by_voice, prosody_track
from sedtalker_jax.data.world.rules import Rules
from sedtalker_jax.emotion.labels import CANONICAL
from sedtalker_jax.errors import UserError

SUBSET = "calibration"
_VOICES, _TAKES, _FOLDS = 96, 4, 8
MapFunction = Callable[..., Any]
"""WorldPool.map: (function, jobs, title) -> results in order."""


def calibration_rules(rules: Rules, full_intensity: bool = False) -> Rules:
    """The rules with a subset in which every voice says every emotion; at full intensity if asked.

    The voices are the first _VOICES training voices, or as many as the largest subset has: calibration never sees a test voice.

    Raises:
      UserError: no subset has two training voices, so that nothing can be cross-validated by voice.
    """
    voices = min(_VOICES, max(int(subset["voices"]["train"]) for subset in rules["subsets"].values()))
    if voices < 2:
        raise UserError(f"{rules.path}: calibration needs two training voices or more in a subset; raise voices.train of one")
    table = dict(rules.table)
    any_subset = next(iter(rules["subsets"].values()))
    calibration = {**any_subset, "voices": {"train": voices, "valid": 1, "test": 1}}
    table["subsets"] = {**rules["subsets"], SUBSET: calibration}
    if full_intensity:
        table["timeline"] = {**rules["timeline"], "intensity": [1.0, 1.0]}
    return Rules(table, rules.text, rules.path)


def single_emotion_statistics(world: World, index: int) -> tuple[np.ndarray, str, int, np.ndarray]:
    """(seven statistics, voice, label, true parameters averaged over the clip) of calibration clip `index`."""
    label = index // len(world.voices["train"]) % len(CANONICAL)
    clip = speak(world, plan_clip(world, "train", index, single_label=label))
    times = np.arange(0.0, clip.duration_s, 0.1)
    parameters = clip.plan.delivery.parameters(clip.curve, times).mean(axis=0)
    start, end = float(clip.words[0, 0]), float(clip.words[-1, 1])
    return prosody_track(clip.waveform).statistics(start, end), clip.plan.voice.name, label, parameters


@dataclass(frozen=True)
class Observer:
    """An ideal observer's result.

    Attributes:
      accuracy: in [0, 1], of the forest that knows the voice; `interval` its 95% bootstrap interval over voices.
      without_voice, true_parameters: accuracies of the forests that don't know the voice, or know the true prosody.
      confusion: [K, K] counts, truth by row.
      importance: of each statistic; they sum to 1.
    """

    accuracy: float
    interval: tuple[float, float]
    without_voice: float
    true_parameters: float
    confusion: np.ndarray
    importance: dict[str, float]
    num_voices: int
    num_clips: int

    @property
    def recall(self) -> dict[str, float]:
        """Share of each emotion's clips that are told right."""
        return dict(zip(CANONICAL, (self.confusion.diagonal() / self.confusion.sum(axis=1)).tolist(), strict=True))


def ideal_observer(
    map_clips: MapFunction, num_voices: int, title: str | None = None, takes: int = _TAKES, trees: int = 300
) -> Observer:
    """A random forest on the seven voice-normalised statistics of single-emotion clips, eight balanced classes.

    Cross-validated by voice. The interval is a 95% bootstrap over voices. Beside it: the same forest without knowing the
    voice's own mean and spread, and with the true prosody parameters instead of measurements.

    Args:
      map_clips: a map over worlds of calibration_rules, subset SUBSET.
      num_voices: training voices of that subset.
      title: stands before the progress bar; None shows none.
      takes: clips per voice and emotion.
      trees: of each forest.
    """
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.model_selection import GroupKFold, cross_val_predict

    jobs = [(index,) for index in range(takes * num_voices * len(CANONICAL))]
    rows = list(map_clips(single_emotion_statistics, jobs, title))
    statistics = np.stack([row[0] for row in rows])
    voices = np.array([row[1] for row in rows])
    labels = np.array([row[2] for row in rows])
    truth = np.stack([row[3] for row in rows])

    def predict(features: np.ndarray) -> np.ndarray:
        forest = RandomForestClassifier(trees, min_samples_leaf=2, random_state=0)
        return cross_val_predict(forest, features, labels, groups=voices, cv=GroupKFold(min(_FOLDS, num_voices)))

    normalised = normalise_by_voice(statistics, voices)
    predicted = predict(normalised)
    correct = predicted == labels
    per_voice = np.array([correct[voices == voice].mean() for voice in np.unique(voices)])
    rng = np.random.default_rng(0)
    draws = per_voice[rng.integers(len(per_voice), size=(2000, len(per_voice)))].mean(axis=1)
    confusion = np.zeros((len(CANONICAL), len(CANONICAL)), dtype=int)
    np.add.at(confusion, (labels, predicted), 1)
    forest = RandomForestClassifier(trees, min_samples_leaf=2, random_state=0).fit(normalised, labels)
    return Observer(
        accuracy=float(correct.mean()),
        interval=(float(np.percentile(draws, 2.5)), float(np.percentile(draws, 97.5))),
        without_voice=float((predict(statistics) == labels).mean()),
        true_parameters=float((predict(truth) == labels).mean()),
        confusion=confusion,
        importance=dict(zip(STATISTICS, forest.feature_importances_.tolist(), strict=True)),
        num_voices=len(per_voice),
        num_clips=len(rows),
    )


def join_windows(world: World, split: str, index: int, width_s: float = 0.1) -> list[tuple[np.ndarray, bool, str]]:
    """(log spectrogram of the 100 ms round a join, whether the emotion changes, voice) of each join of a clip.

    Everything outside is cut away, and the window's own level and mean spectrum with it: what is left is the join itself.
    """
    clip = speak(world, plan_clip(world, split, index))
    size, hop = 320, 160
    result = []
    for join, changed in zip(clip.plan.timeline.joins, clip.plan.timeline.changes, strict=True):
        centre = 0.5 * (clip.words[join.word - 1, 1] + clip.words[join.word, 0])
        start = int((centre - 0.5 * width_s) * SAMPLE_RATE)
        window = clip.waveform[start : start + int(width_s * SAMPLE_RATE)]
        frames = np.lib.stride_tricks.sliding_window_view(window, size)[::hop] * np.hanning(size)
        power = np.abs(scipy.fft.rfft(frames, axis=1)) ** 2
        bands = np.stack([part.mean(axis=1) for part in np.array_split(power[:, 1:], 16, axis=1)], axis=1)
        log_bands = np.log(bands + 1e-7)
        result.append(((log_bands - log_bands.mean(axis=0)).ravel().astype(np.float32), bool(changed), clip.plan.voice.name))
    return result


def join_detectability(windows: Sequence[tuple[np.ndarray, bool, str]], trees: int = 300) -> dict[str, float]:
    """Balanced accuracy with which a classifier tells joins with a change from joins without, cross-validated by voice.

    {"balanced_accuracy", "joins", "changed"}; 0.5 is chance.

    Raises:
      UserError: too few joins: of one voice, or all with a change or all without.
    """
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.model_selection import GroupKFold, cross_val_predict

    changed = np.array([window[1] for window in windows], dtype=bool)
    voices = np.array([window[2] for window in windows])
    num_voices = len(np.unique(voices))
    if num_voices < 2 or changed.all() or not changed.any():
        raise UserError(f"{len(windows)} joins are too few to tell changes of emotion from none; raise --clips")
    features = np.stack([window[0] for window in windows])
    forest = RandomForestClassifier(trees, min_samples_leaf=3, class_weight="balanced", random_state=0)
    predicted = cross_val_predict(forest, features, changed, groups=voices, cv=GroupKFold(min(5, num_voices)))
    return {
        "balanced_accuracy": float(balanced_accuracy_score(changed, predicted)),
        "joins": len(changed),
        "changed": float(changed.mean()),
    }


def additive_residual(world: World, index: int, strength: float = 0.8) -> dict[str, float]:
    """What the best additive model of a training clip's true vertices leaves, by region, over the expression's energy.

    The clip is rendered under every emotion, held at `strength`; vertices [K, F, v, 3] are fitted by mean + speech(f) +
    expression(k), by least squares, which are the marginal means.
    """
    plan = plan_clip(world, "train", index)
    clip = speak(world, plan, distort=False)
    activation, _ = articulate_clip(world, clip)
    held = []
    for emotion in range(-1, activation.shape[1]):
        shown = np.zeros_like(activation)
        if emotion >= 0:
            shown[:, emotion] = strength
        rig = world.faces.articulate("train", plan.head, clip.phones, shown)
        held.append(world.faces.displacements("train", plan.head, rig))
    moved = np.stack(held)
    result = {}
    for region in ("mouth", "upper_face"):
        own = moved[:, :, world.faces.head("train", plan.head).template.regions[region]].astype(np.float64)
        mean = own.mean(axis=(0, 1), keepdims=True)
        speech, expression = own.mean(axis=0, keepdims=True) - mean, own.mean(axis=1, keepdims=True) - mean
        residual = own - mean - speech - expression
        result[region] = float((residual**2).sum() / ((expression**2).sum() * own.shape[1]))
    return result
