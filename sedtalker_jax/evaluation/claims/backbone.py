"""Is a stack of Mamba and attention better than either alone, or than recurrent units? A claim of ours.

Arms have the animator of the arm "oracle" with another pattern of blocks, of widths that bring its number of parameters to
within a tenth; encoder, condition, template, data, steps and seed are the same:

    transformer-mamba   MAM        attention   AAA        mamba   MMM        gru   GGG

Every arm gets the same small search for its learning rate, once, on the first seed: SEARCH_STEPS steps at each of RATES,
the best by the error of the lips on the validation split ("backbone/search"). With the default rate transformer-mamba is the
arm "oracle" of the animation claims itself, and is not trained again. Score: lip_vertex_error_rooted_mm on all test clips,
and those of moving emotion.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from sedtalker_jax.emotion.formats import write_text
from sedtalker_jax.evaluation.claims.animation import animator_config, arm_scores, clip_tracks
from sedtalker_jax.evaluation.claims.animation_tracks import split_records
from sedtalker_jax.evaluation.claims.batches import animate, template_codes
from sedtalker_jax.evaluation.claims.face_scores import FaceScores
from sedtalker_jax.evaluation.claims.jobs import Job, train_arm
from sedtalker_jax.evaluation.claims.settings import Settings
from sedtalker_jax.evaluation.claims.tables import save_table
from sedtalker_jax.inference.pipeline import SEDTalker

FAMILY = "backbone"

REFERENCE = "transformer-mamba"

PATTERNS = {REFERENCE: "MAM", "attention": "AAA", "mamba": "MMM", "gru": "GGG"}

SIZES = {
    REFERENCE: dict(width=96, feed_forward=2.0),
    "attention": dict(width=96, feed_forward=3.2),
    "mamba": dict(width=96, feed_forward=1.4),
    "gru": dict(width=80, feed_forward=1.5),
}
"""D, and the hidden width of the feed-forward networks over D, at which the arms are equally large."""

RATES = (3e-3, 6e-3, 1.2e-2)
"""Learning rates of the search; the middle one is the default of the world's configs."""

SEARCH_STEPS = 200

CHOICE = "rates.json"


def jobs(settings: Settings) -> list[Job]:
    """The search of the first seed, and "seed<S>/backbone/<arm>" and "seed<S>/backbone" of every seed; none without a
    built-in world."""
    if not settings.world_hash():
        return []
    first = settings.seeds[0]
    search_name = f"seed{first}/backbone/search"
    run = functools.partial(search, settings, first)
    result = [Job(search_name, run, (f"seed{first}/tracks",), expected_s=900.0)]
    for seed in settings.seeds:
        needed = (search_name, f"seed{seed}/tracks", f"seed{seed}/animator/oracle")
        names = {arm: f"seed{seed}/backbone/{arm}" for arm in PATTERNS}
        for arm, name in names.items():
            result.append(Job(name, functools.partial(train, settings, arm, seed), needed, expected_s=110.0))
        scoring = functools.partial(score, settings, seed)
        result.append(Job(f"seed{seed}/backbone", scoring, tuple(names.values()), expected_s=90.0))
    return result


def arm_config(settings: Settings, arm: str, seed: int, tracks: Path, rate: float) -> ConfigDict:
    """The config of an arm; unlocked."""
    config = animator_config(settings, seed, tracks)
    config.optim.learning_rate = rate
    if not settings.smoke or arm != REFERENCE:
        config.model.animator.backbone.update(pattern=PATTERNS[arm], **SIZES[arm])
    return config


def search(settings: Settings, seed: int, directory: Path) -> None:
    """Trains every arm at every rate for a little, and writes the best rate of each arm into rates.json."""
    seed_directory = directory.parent.parent
    tracks = seed_directory / "tracks" / "oracle.npz"
    records = split_records(settings, "valid")
    scorer = FaceScores(settings.data)
    errors: dict[str, dict[float, float]] = {}
    for arm in PATTERNS:
        for rate in RATES:
            workdir = directory / f"{arm}-{rate:g}"
            config = arm_config(settings, arm, seed, tracks, rate)
            if not settings.smoke:
                config.num_steps = config.eval_every = SEARCH_STEPS
            train_arm(config.lock(), workdir)
            errors.setdefault(arm, {})[rate] = lip_error(scorer, workdir, seed_directory, records)
    chosen = {arm: min(by_rate, key=by_rate.__getitem__) for arm, by_rate in errors.items()}
    rows = [(arm, *by_rate.values(), chosen[arm]) for arm, by_rate in errors.items()]
    columns = (*(f"{rate:g}" for rate in RATES), "chosen")
    title = f"Lip vertex error, rooted [mm], on the validation split after {SEARCH_STEPS} steps at each learning rate"
    save_table(directory, "learning_rates", title, columns, rows)
    write_text(directory / CHOICE, json.dumps(chosen) + "\n")


def lip_error(scorer: FaceScores, workdir: Path, seed_directory: Path, records) -> float:
    """Mean over clips of the lips' error of a model under the true track."""
    model = SEDTalker.load(workdir)
    tracks = clip_tracks(seed_directory, "oracle", records)
    motions = animate(model, [record["waveform"] for record in records], tracks, template_codes(model, records))
    return float(np.mean([scorer.lip_error_mm(m, np.asarray(r["motion"])) for m, r in zip(motions, records, strict=True)]))


def chosen_rate(settings: Settings, arm: str) -> float:
    """The rate that the search chose for an arm."""
    path = settings.directory / f"seed{settings.seeds[0]}" / "backbone" / "search" / CHOICE
    return float(json.loads(path.read_text())[arm])


def is_oracle(settings: Settings, arm: str, seed_directory: Path) -> bool:
    """Whether an arm is trained as "animator/oracle" was, so that this one stands for it."""
    seed = int(seed_directory.name.removeprefix("seed"))
    tracks = seed_directory / "tracks" / "oracle.npz"
    own = arm_config(settings, arm, seed, tracks, chosen_rate(settings, arm))
    return own.to_dict() == animator_config(settings, seed, tracks).to_dict()


def train(settings: Settings, arm: str, seed: int, workdir: Path) -> None:
    """Trains an arm at its rate, unless "animator/oracle" is the same."""
    seed_directory = workdir.parent.parent
    if not is_oracle(settings, arm, seed_directory):
        tracks = seed_directory / "tracks" / "oracle.npz"
        train_arm(arm_config(settings, arm, seed, tracks, chosen_rate(settings, arm)).lock(), workdir)


def score(settings: Settings, seed: int, directory: Path) -> None:
    """Scores the arms of a seed on the test split; tables/parameters.json holds their sizes."""
    records = split_records(settings, "test")
    scorer = FaceScores(settings.data)
    rows = []
    for arm in PATTERNS:
        own = directory.parent / "animator" / "oracle" if is_oracle(settings, arm, directory.parent) else directory / arm
        model = SEDTalker.load(own)
        tracks = clip_tracks(directory.parent, "oracle", records)
        motions = animate(model, [record["waveform"] for record in records], tracks, template_codes(model, records))
        arm_scores(scorer, FAMILY, arm, seed, records, motions).save(directory)
        rows.append((arm, num_parameters(model.params), num_parameters(model.params["animator"]), chosen_rate(settings, arm)))
    save_table(directory, "parameters", "Size of the arms", ("all parameters", "of the animator", "learning rate"), rows)


def num_parameters(params) -> int:
    """Number of values in a tree of parameters."""
    import jax

    return sum(int(np.size(leaf)) for leaf in jax.tree.leaves(params))
