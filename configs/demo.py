"""The demo: diarizer and animator trained together on the built-in world, from scratch, in minutes on two CPU cores.

Command:  make demo      or, after making the world,  python train.py --config=configs/demo.py --workdir=runs/demo
Variants: configs/demo.py:causal (an animator that sees no later step and takes recordings of any length in one pass), :smoke.
"""

from ml_collections import ConfigDict

from configs import world_experiment


def get_config(arg: str = "") -> ConfigDict:
    """The config of one of the variants "", "causal", "smoke"; the last trains a few steps on a handful of clips."""
    config = world_experiment.base()
    config.data.directory = "runs/world-demo"
    config.data.make_command = (
        "python -m sedtalker_jax.data.synthetic --rules configs/world_rules.toml --subset demo --out runs/world-demo"
    )
    config.num_steps = 1_100
    world_experiment.apply_variant(config, arg)
    return config.lock()
