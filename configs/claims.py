"""Arms of the claims (docs/claims.md): diarizer alone, animator alone or both, at demo size on the built-in world.

Command:  python -m sedtalker_jax.evaluation.claims      or one arm:
          python train.py --config=configs/claims.py:diarizer --workdir=runs/arm
Variants: diarizer, animator, joint; each with ",smoke" for a few steps of a tiny model; :smoke is that of joint.
"""

from ml_collections import ConfigDict

from configs import world_experiment

KINDS = ("diarizer", "animator", "joint")


def get_config(arg: str = "joint") -> ConfigDict:
    """The config of an arm's kind, "diarizer", "animator" or "joint" (default), optionally followed by ",smoke".

    Raises:
      ValueError: another kind.
    """
    kind, _, variant = ("joint,smoke" if arg == "smoke" else arg or "joint").partition(",")
    if kind not in KINDS:
        raise ValueError(f"unknown arm {kind!r}: expected one of {', '.join(KINDS)}")
    config = world_experiment.base()
    records = "runs/world-claims"
    config.data.make_command = (
        f"python -m sedtalker_jax.data.synthetic --rules configs/world_rules.toml --subset claims --out {records}"
    )
    config.num_steps = 800 if kind == "joint" else 600
    # An arm is scored once, at its end: validation on the way would be the same for all and cost a tenth.
    config.eval_every = config.num_steps
    config.checkpoint.every_steps = 200
    if kind == "joint":
        config.data.directory = records
    elif kind == "diarizer":
        config.data.speech = records
        config.model.animator = None
        config.loss.update(dict.fromkeys(("vertices", "lips", "upper_face", "velocity", "lip_closure"), 0.0))
        config.loss.update(upper_face_velocity=0.0, upper_face_acceleration=0.0)
    else:
        config.data.face = records
        config.model.diarizer = None
        config.loss.update(category=0.0, intensity=0.0, boundary=0.0)
        config.pipeline.track_shares = (1.0, 0.0, 0.0)
    world_experiment.apply_variant(config, variant)
    return config
