"""Edits of an emotion: EditEmoTalk's claims, against ways of editing that know no boundaries.

Two joint models of equal size, data, steps and seed are trained: "consistency" with the emotional consistency loss, for which a
fifth of the clips gets an edited emotion in the place of a heard one, and "plain" without. Boundaries are fitted to the
training split, their scales, temperature and expression gain to the validation split. Then clips of the test split are edited
from their own emotion to another that the seed picks, and compared with the rendered truth of that edit: the same speech with
the target's emotion at the mean strength that training faces have in it. Arms:

    ours            boundary normals in the model with the consistency loss
    class-mean, one-hot, random    other ways in the same model (evaluation.editing_arms)
    no-consistency  boundary normals in the plain model
    unedited        ours at alpha = 0, against the unedited truth
    truth           the rendered truth itself

Measures:
    monotone               1 if the projection of the change on the true change rises at each of 20 steps from alpha = 0 to 1
    boundary_step          the step that crosses the boundary, over the clip's median step; NaN where alpha = 1 does not cross
    largest_step           the largest step over the median step
    amplitude              the projection at alpha = 1: 1 is the true change, a still face has 0
    target_named           1 if the evaluator (evaluation.expression_evaluator) names the target at alpha = 1
    target_named_matched   the same where the way has changed the upper face as much as ours has at alpha = 1
    lip_error_mm, closure_recall, expression_coefficient_error    against the edited truth (as claims.face_scores)
    leak_mm                largest motion of a vertex further than 0.3 s from an edit of the middle third, on LEAK_CLIPS clips

Scored are TEST_CLIPS clips, spread over the split: a clip is animated some 130 times.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict
from tqdm import tqdm

from sedtalker_jax import axes
from sedtalker_jax.data.mixing import spread_records
from sedtalker_jax.data.records import RecordReader
from sedtalker_jax.emotion import Edit, EditDictionary, EditSchedule
from sedtalker_jax.emotion.formats import write_text
from sedtalker_jax.emotion.labels import ACTIVE, CANONICAL
from sedtalker_jax.errors import UserError
from sedtalker_jax.evaluation import lip_metrics
from sedtalker_jax.evaluation.animation_metrics import MILLIMETRES
from sedtalker_jax.evaluation.claims.face_scores import FaceScores
from sedtalker_jax.evaluation.claims.jobs import Job, train_arm
from sedtalker_jax.evaluation.claims.scores import ArmScores
from sedtalker_jax.evaluation.claims.settings import Settings
from sedtalker_jax.evaluation.claims.tables import save_table
from sedtalker_jax.evaluation.editing_arms import ARMS, ClipSweep
from sedtalker_jax.evaluation.editing_evaluation import ALPHAS, MARGIN_S, clip_emotion, mean_strength, step_over_median, targets
from sedtalker_jax.evaluation.expression_evaluator import ExpressionEvaluator, edited_truth, moves_true_face
from sedtalker_jax.inference.editing import edit, edited_motion, fit_edit_dictionary
from sedtalker_jax.inference.pipeline import SEDTalker
from sedtalker_jax.inference.scoring import fit_temperature, predict
from sedtalker_jax.inference.windows import stitch
from sedtalker_jax.training.checkpoint import CALIBRATION, EDIT_DICTIONARY, read_temperature
from sedtalker_jax.training.motion_readers import HELD_OUT

MODELS = ("consistency", "plain")
NO_CONSISTENCY, UNEDITED, TRUTH = "no-consistency", "unedited", "truth"

CONSISTENCY = 0.5
"""Scale of the consistency loss."""

EDITED_SHARES = (0.2, 0.2, 0.4, 0.2)
"""True, disturbed, heard and edited tracks in the training of "consistency"; of "plain" the edited ones are heard ones too."""

TEST_CLIPS, LEAK_CLIPS, EVALUATOR_CLIPS, FIT_CLIPS, VALID_CLIPS = 66, 11, 40, 240, 96
SMOKE_CLIPS = 4

MATCHING_ALPHAS = np.array([0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0])
"""Where the change of the upper face is measured, to find the alpha that changes it as much as ours does at 1. A way that
changes it less even at the last one is taken there."""

Record = Mapping[str, Any]


def jobs(settings: Settings) -> list[Job]:
    """ "seed<S>/joint/<model>", "seed<S>/editing" and, with another world, "seed<S>/editing-world-b" of every seed.

    None without a built-in world: there alone the truth of an edit can be rendered.
    """
    if not settings.world_hash():
        return []
    result = []
    for seed in settings.seeds:
        names = {model: f"seed{seed}/joint/{model}" for model in MODELS}
        for model, name in names.items():
            result.append(Job(name, functools.partial(train, settings, model, seed), expected_s=190.0))
        own = f"seed{seed}/editing"
        result.append(Job(own, functools.partial(score, settings, seed), tuple(names.values()), expected_s=180.0))
        if settings.other_world_hash():
            other = functools.partial(score_other_world, settings, seed)
            result.append(Job(f"seed{seed}/editing-world-b", other, (own,), expected_s=120.0))
    return result


def joint_config(settings: Settings, model: str, seed: int) -> ConfigDict:
    """The config of one of MODELS; unlocked."""
    from configs import claims

    config = claims.get_config(",".join(["joint", *([settings.variant] if settings.variant else [])]))
    config.seed = config.pipeline.seed = seed
    config.data.directory = settings.data
    if model == "consistency":
        config.loss.consistency = CONSISTENCY
        config.pipeline.track_shares = EDITED_SHARES
        # A smoke run looks at too few faces to fit the frozen reader to some and score it on others.
        config.data.codec_clips = max(config.data.codec_clips, 2 * HELD_OUT)
    if not settings.smoke:
        config.num_steps = config.eval_every = settings.joint_steps
    return config


def train(settings: Settings, model: str, seed: int, workdir: Path) -> None:
    """Trains one of MODELS."""
    train_arm(joint_config(settings, model, seed).lock(), workdir)


def score(settings: Settings, seed: int, directory: Path) -> None:
    """Fits what the editor needs, and scores all arms on the test split."""
    directory.mkdir(parents=True, exist_ok=True)
    models = {name: SEDTalker.load(directory.parent / "joint" / name) for name in MODELS}
    for name, model in models.items():
        _fit_editor(model, settings, directory / name)
    _score_world(settings, seed, settings.data, models, "editing", directory)


def score_other_world(settings: Settings, seed: int, directory: Path) -> None:
    """Scores the editors that were fitted to the first world, unchanged, on another one."""
    directory.mkdir(parents=True, exist_ok=True)
    models = {name: SEDTalker.load(directory.parent / "joint" / name) for name in MODELS}
    for name, model in models.items():
        _load_editor(model, directory.parent / "editing" / name)
    _score_world(settings, seed, settings.other_data, models, "editing-world-b", directory)


def _fit_editor(model: SEDTalker, settings: Settings, directory: Path) -> None:
    """Temperature, boundaries, their scales and expression gain; stored, so that the other world's job finds them."""
    directory.mkdir(parents=True, exist_ok=True)
    train_split, valid = (RecordReader(settings.data, split) for split in ("train", "valid"))
    valid_clips = spread_records(valid, SMOKE_CLIPS if settings.smoke else VALID_CLIPS)
    model.temperature = 1.0
    model.temperature = fit_temperature(predict(model, valid_clips, "calibrate"))
    write_text(directory / CALIBRATION, json.dumps({"temperature": model.temperature}) + "\n")
    # A smoke run's model hears little, but boundaries need examples of all emotions.
    dictionary = fit_edit_dictionary(model, train_split, FIT_CLIPS, unseen=valid_clips, faces=valid_clips)
    dictionary.save(directory / EDIT_DICTIONARY)
    model.edit_dictionary = dictionary


def _load_editor(model: SEDTalker, directory: Path) -> None:
    model.temperature = read_temperature(directory)
    model.edit_dictionary = EditDictionary.load(directory / EDIT_DICTIONARY)


def _score_world(
    settings: Settings, seed: int, data: str, models: Mapping[str, SEDTalker], family: str, directory: Path
) -> None:
    records = spread_records(RecordReader(data, "test"), SMOKE_CLIPS if settings.smoke else TEST_CLIPS)
    known = models["consistency"].edit_dictionary.labels
    records = [record for record in records if targets(record, known)]
    scorer = EditScorer(data, models, records, seed, settings.smoke)
    rows: dict[str, list[dict[str, float]]] = {}
    for number in tqdm(range(len(records)), desc=family, unit="clip", mininterval=2.0):
        for arm, row in scorer.clip(number).items():
            rows.setdefault(arm, []).append(row)
    for arm, values in rows.items():
        names = list(dict.fromkeys(name for row in values for name in row))
        columns = {name: np.array([row.get(name, np.nan) for row in values]) for name in names}
        weights = {"closure_recall": columns.pop("closures")} if "closures" in columns else {}
        clips, voices = (tuple(record[key] for record in records) for key in ("id", "speaker"))
        ArmScores(family, arm, seed, clips, voices, columns, weights).save(directory)
    _tables(scorer, rows, family, directory)


class EditScorer:
    """Edits of a world's clips by all arms, beside the rendered truth.

    Args:
      data: record directory of the world.
      models: of MODELS, with their edit dictionaries.
      records: to be edited.
      seed: of targets and random directions, and of the evaluator.
      smoke: few clips for the evaluator.

    Raises:
      UserError: no built-in world, or faces of another rate or topology than the models'.
    """

    def __init__(self, data: str, models: Mapping[str, SEDTalker], records: Sequence[Record], seed: int, smoke: bool):
        self.models, self.records, self.seed = models, records, seed
        self.scores = FaceScores(data)
        oracle, model = self.scores.oracle, models["consistency"]
        space = self.scores.space
        if (space.fps, space.topology) != (model.fps, model.codec.space.topology):
            raise UserError(f"{data}: faces of another rate or topology than the models'; choose another world")
        self.evaluator = ExpressionEvaluator.fit(
            oracle, spread_records(RecordReader(data, "valid"), SMOKE_CLIPS if smoke else EVALUATOR_CLIPS), seed
        )
        self.strength = mean_strength(data)
        everywhere = space.basis.reshape(space.rank, -1).astype(np.float64)
        # A model of another world moves in its own basis; what lies outside of this world's is lost, for all arms alike.
        self._to_space = {
            name: np.asarray(m.codec.space.basis.reshape(m.codec.rank, -1), np.float64) @ everywhere.T
            for name, m in models.items()
        }
        self._gram = everywhere @ everywhere.T
        upper = self.scores.displacements(np.eye(space.rank), "expression").reshape(space.rank, -1)
        self._upper_gram = upper @ upper.T
        self._embeddings = {name: _embeddings(m, [record["waveform"] for record in records]) for name, m in models.items()}
        rng = np.random.default_rng([seed, 23])
        known = models["consistency"].edit_dictionary.labels
        self.pairs = [(clip_emotion(record), str(rng.choice(targets(record, known)))) for record in records]
        leaking = np.linspace(0, len(records) - 1, min(LEAK_CLIPS, len(records))).round().astype(int)
        self._leaking = frozenset(leaking.tolist())
        self.named: dict[str, list[str]] = {arm: [] for arm in ("ours", TRUTH)}

    def clip(self, number: int) -> dict[str, dict[str, float]]:
        """Measures of every arm on one record."""
        record, (source, target) = self.records[number], self.pairs[number]
        template = record["template"]
        oracle, strength = self.scores.oracle, self.strength[target]
        true = np.asarray(record["motion"], np.float64)
        wanted = edited_truth(oracle, record, target, source, strength).astype(np.float64)
        true_change = wanted - true if moves_true_face(record, target, source, strength) else None
        sweeps = {name: self._sweep(name, number) for name in MODELS}
        rows: dict[str, dict[str, float]] = {}
        own = self._moved("consistency", sweeps["consistency"], "ours", ALPHAS)
        frames = min(len(wanted), own.shape[1])
        change = own - own[:1]
        aim = float(np.mean(self._change(change[-1:])))
        rows["ours"] = self._measures(
            own, true_change, wanted, record, target, sweeps["consistency"].boundary_distances("ours", ALPHAS)
        )
        rows["ours"]["target_named_matched"] = rows["ours"]["target_named"]
        if number in self._leaking:
            rows["ours"]["leak_mm"] = self._leak(number)
        for arm in ARMS[1:]:
            rows[arm] = self._other_way(arm, sweeps["consistency"], aim, true_change, wanted, record, target)
        plain = self._moved("plain", sweeps["plain"], "ours", ALPHAS)
        distances = sweeps["plain"].boundary_distances("ours", ALPHAS)
        rows[NO_CONSISTENCY] = self._measures(plain, true_change, wanted, record, target, distances)
        rows[NO_CONSISTENCY]["unedited_lip_error_mm"] = self._lips(plain[0], true, record)["lip_error_mm"]
        rows[UNEDITED] = self._lips(own[0], true, record)
        named = self.evaluator.name(wanted[:frames], template)
        rows[TRUTH] = {"target_named": float(named == target), **self._lips(wanted, wanted, record)}
        self.named[TRUTH].append(named)
        self.named["ours"].append(self.evaluator.name(own[-1], template))
        return rows

    def _sweep(self, name: str, number: int) -> ClipSweep:
        model, record = self.models[name], self.records[number]
        source, target = self.pairs[number]
        return ClipSweep(
            model=model,
            dictionary=model.edit_dictionary,
            waveform=record["waveform"],
            embedding=self._embeddings[name][number],
            face=self.scores.space.template(record["template"]),
            source=source,
            target=target,
            strength=self.strength[target],
            seed=self.seed * 10_000 + number,
        )

    def _moved(self, model: str, sweep: ClipSweep, arm: str, alphas) -> Float[np.ndarray, "A F R"]:
        return sweep.motion(arm, alphas) @ self._to_space[model]

    def _other_way(self, arm, sweep, aim, true_change, wanted, record, target) -> dict[str, float]:
        """Its own alpha = 1 first; then as far along as changes the upper face as much as ours."""
        grid = np.concatenate([[0.0], MATCHING_ALPHAS])
        coarse = self._moved("consistency", sweep, arm, grid)
        sizes = self._change(coarse - coarse[:1]).mean(axis=1)
        reach = float(grid[-1])
        above = np.flatnonzero(sizes >= aim)
        if len(above) and above[0] > 0:
            low, high = above[0] - 1, above[0]
            reach = float(np.interp(aim, sizes[[low, high]], grid[[low, high]]))
        motion = self._moved("consistency", sweep, arm, ALPHAS)
        row = self._measures(motion, true_change, wanted, record, target, sweep.boundary_distances(arm, ALPHAS))
        matched = self._moved("consistency", sweep, arm, np.array([reach]))[0]
        row["target_named_matched"] = float(self.evaluator.name(matched, record["template"]) == target)
        row["alpha_matched"] = reach
        return row

    def _change(self, change: Float[np.ndarray, "A F R"]) -> Float[np.ndarray, "A F"]:
        """Root of the squared displacement of the upper face in every frame, in metres."""
        return np.sqrt(np.maximum(np.einsum("afr,rq,afq->af", change, self._upper_gram, change), 0.0))

    def _measures(self, motion, true_change, wanted, record, target, distances) -> dict[str, float]:
        return {
            **way_measures(motion, true_change, self._gram, distances),
            "target_named": float(self.evaluator.name(motion[-1], record["template"]) == target),
            "expression_coefficient_error": self._expression_error(motion[-1], wanted, record),
            **self._lips(motion[-1], wanted, record),
        }

    def _expression_error(self, motion, wanted, record) -> float:
        frames = min(len(motion), len(wanted))
        return self.scores.expression_error(motion[:frames], wanted[:frames], record["template"])

    def _lips(self, motion, wanted, record) -> dict[str, float]:
        frames = min(len(motion), len(wanted))
        template = record["template"]
        distance = self.scores.lip_distance(motion, template)
        closed = float(self.scores.lip_distance(np.zeros((1, motion.shape[1])), template)[0])
        hits, total = lip_metrics.bilabial_closures(distance, self.scores.fps, record["phonemes"], closed_distance=closed)
        return {
            "lip_error_mm": self.scores.lip_error_mm(motion[:frames], wanted[:frames]),
            "closure_recall": hits / total if total else float("nan"),
            "closures": float(total),
        }

    def _leak(self, number: int) -> float:
        """Through the editor that people use, with its fades."""
        model, record = self.models["consistency"], self.records[number]
        waveform = record["waveform"]
        source, target = self.pairs[number]
        duration = len(waveform) / axes.SAMPLE_RATE
        start, end = duration / 3, 2 * duration / 3
        face = model.template(self.scores.space.template(record["template"]))
        changed = edit(model, waveform, EditSchedule((Edit(target, 1.0, source, start, end),)))
        unedited = model.motion(waveform, model.activations(changed.heard, len(waveform)), face)
        motion = edited_motion(model, waveform, changed, face, unedited=unedited)
        times = np.arange(len(motion)) / model.fps
        outside = (times < start - MARGIN_S) | (times > end + MARGIN_S)
        vertices = [model.codec.vertices(face.vertices, values[outside]) for values in (motion, unedited)]
        return float(np.linalg.norm(vertices[0] - vertices[1], axis=-1).max(initial=0.0) * MILLIMETRES)


def way_measures(
    motion: Float[np.ndarray, "A F R"],
    true_change: Float[np.ndarray, "f R"] | None,
    gram: Float[np.ndarray, "R R"],
    distances: Float[np.ndarray, " A"],
) -> dict[str, float]:
    """Measures of the way from alpha = 0 to 1, as the module defines them.

    Args:
      motion: coefficients at each of ALPHAS.
      true_change: of the truth, edited minus unedited, on the frames that both have. None where it doesn't move enough to be
        measured against (`moves_true_face`): all measures are NaN.
      gram: inner products of the basis in vertices.
      distances: of the clip from the boundary at each of ALPHAS, NaN for a way without one.
    """
    if true_change is None:
        return dict.fromkeys(("monotone", "rising_steps", "boundary_step", "largest_step", "amplitude"), float("nan"))
    frames = min(len(true_change), motion.shape[1])
    change = (motion - motion[:1])[:, :frames]
    aim = true_change[:frames] @ gram
    projections = np.einsum("afr,fr->a", change, aim) / float(np.sum(true_change[:frames] * aim))
    steps = np.diff(projections)
    median = float(np.median(np.abs(steps)))
    return {
        "monotone": float((steps > 0).all()),
        "rising_steps": float((steps > 0).mean()),
        "boundary_step": step_over_median(projections, distances),
        "largest_step": float(np.abs(steps).max() / median) if median > 0 else float("nan"),
        "amplitude": float(projections[-1]),
    }


def _tables(scorer: EditScorer, rows: Mapping[str, list[dict[str, float]]], family: str, directory: Path) -> None:
    measures = [name for name in rows["ours"][0] if name != "closures"]
    measures += [name for name in ("target_named_matched", "leak_mm", "alpha_matched") if name not in measures]
    arms = list(rows)
    table = [[name, *(_mean([row.get(name, np.nan) for row in rows[arm]]) for arm in arms)] for name in dict.fromkeys(measures)]
    gains = ", ".join(f"{name} {model.edit_dictionary.expression_gain:.2f}" for name, model in scorer.models.items())
    note = f"Means over {len(scorer.records)} clips; expression gain: {gains}."
    save_table(directory, family, "Edits at alpha = 1", arms, table, note)
    targets = [target for _, target in scorer.pairs]
    for arm, named in scorer.named.items():
        crossed = [
            [target, *(sum(t == target and n == name for t, n in zip(targets, named, strict=True)) for name in CANONICAL)]
            for target in ACTIVE
        ]
        title = f"Clips edited to an emotion (rows) and what the evaluator names ({arm})"
        save_table(directory, f"{family}-cross-talk-{arm}", title, CANONICAL, crossed)


def _embeddings(model: SEDTalker, waveforms: Sequence[Float[np.ndarray, " S"]]) -> list[Float[np.ndarray, "T C"]]:
    return [
        stitch([part.embedding for part in heard], [part.first_frame for part in heard], axes.num_speech_frames(len(waveform)))
        for waveform, heard in zip(waveforms, model.hear_many(waveforms), strict=True)
    ]


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if np.isfinite(value)]
    return float(np.mean(known)) if known else float("nan")
