"""The built-in world at full size: a longer run on more voices, sentences and heads, for numbers rather than for a first look.

Command:  python -m sedtalker_jax.data.synthetic --rules configs/world_rules.toml --subset full --out runs/world-full
          python train.py --config=configs/world.py --workdir=runs/world
Variants: configs/world.py:causal (an animator that sees no later step), :smoke.
"""

from ml_collections import ConfigDict

from configs import world_experiment


def get_config(arg: str = "") -> ConfigDict:
    """The config of one of the variants "", "causal", "smoke"; the last trains a few steps on a handful of clips."""
    config = world_experiment.base()
    config.data.directory = "runs/world-full"
    config.data.make_command = (
        "python -m sedtalker_jax.data.synthetic --rules configs/world_rules.toml --subset full --out runs/world-full"
    )
    config.data.valid_clips = 300
    config.data.codec_clips = 1_000
    config.num_steps = 10_000
    config.eval_every = 1_000
    config.log_every = 50
    config.model.encoder.update(conv_dim=(32, 64), hidden_size=64, intermediate_size=128)
    for part in (config.model.diarizer, config.model.animator):
        part.backbone.update(width=128)
    # What the README's numbers were made with; the demo's own rate, average and weight have not been tried at this length.
    config.loss.lips = 2.0
    config.optim.update(learning_rate=2e-3, warmup_steps=200, ema_decay=0.999)
    config.checkpoint.every_steps = 1_000
    world_experiment.apply_variant(config, arg)
    return config.lock()
