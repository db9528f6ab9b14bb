"""The built-in world at full size: a longer run on more voices, sentences and heads, for numbers rather than for a first look.

Command:  python -m sedtalker_jax.data.synthetic --rules configs/world_rules.toml --subset full --out runs/world-full
          python train.py --config=configs/world.py --workdir=runs/world
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
    config.data.codec_clips = 2_000
    config.data.template_code_size = 20
    config.num_steps = 40_000
    config.eval_every = 2_000
    config.pipeline.batch_size = 32
    config.pipeline.max_seconds = 6.0
    config.pipeline.bucket_seconds = (4.0, 5.0, 6.0)
    config.model.encoder.update(
        conv_dim=(128, 128), hidden_size=192, num_hidden_layers=4, num_attention_heads=6, intermediate_size=768
    )
    for part in (config.model.diarizer, config.model.animator):
        part.backbone.update(pattern="MMAMMA", width=192, state_size=16, num_heads=6, num_kv_heads=2)
    config.model.diarizer.frame_stacking = 1
    config.optim.learning_rate = 1e-3
    config.optim.warmup_steps = 1_000
    config.optim.ema_decay = 0.999
    config.checkpoint.every_steps = 2_000
    world_experiment.apply_variant(config, arg)
    return config.lock()
