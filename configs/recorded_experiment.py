"""What the experiments on recorded corpora share: a pretrained encoder, half of it frozen, and prepared record directories."""

from ml_collections import ConfigDict

from configs import world_experiment

PREPARE = "python -m sedtalker_jax prepare --corpus NAME --root DIR --out records/NAME    (--corpus help lists the corpora)"


def base() -> ConfigDict:
    """Defaults at full size for one 80 GB accelerator or more. data.speech and data.face take directories, comma-separated."""
    config = world_experiment.base()
    config.num_steps = 60_000
    config.eval_every = 1_000
    config.log_every = 50
    config.checkpoint.every_steps = 1_000
    config.data.speech = ""
    # Corpus of data.speech that training and calibration leave out and evaluate.py scores: leave-one-corpus-out.
    config.data.held_out = ""
    config.data.face = ""
    config.data.make_command = PREPARE
    config.data.valid_clips = 512
    config.data.codec_clips = 1_000
    config.pipeline.update(batch_size=32, max_seconds=10.0, bucket_seconds=(4.0, 6.0, 10.0), num_workers=8, prefetch=8)
    # Directory in Hugging Face layout (config.json and weights), or a fairseq / unilm .pt file.
    config.model.pretrained = "pretrained/wavlm-base-plus"
    # Another one, from which the animator reads the words while the first hears the emotion; "" = one encoder for both.
    config.model.content_pretrained = ""
    config.model.content_encoder = None
    # On top of the pretrained config: sizes come from there.
    config.model.encoder = ConfigDict(
        dict(num_frozen_layers=6, layerdrop=0.05, apply_spec_augment=True, mask_time_prob=0.05, remat="dots_saveable")
    )
    del config.model.acoustics
    sizes = dict(pattern="MAMA", width=256, state_size=16, num_heads=8, num_kv_heads=4, dropout=0.1)
    config.model.diarizer = ConfigDict(dict(embedding_size=48, backbone=dict(sizes)))
    config.model.animator = ConfigDict(dict(condition_width=128, backbone=dict(sizes, width=512, pattern="MEAEME")))
    config.model.precision = ConfigDict(dict(params="float32", compute="bfloat16"))
    config.optim.update(learning_rate=2e-4, warmup_steps=2_000, weight_decay=1e-2, ema_decay=0.9995)
    return config


def shrink(config: ConfigDict) -> None:
    """In place: a few steps of a tiny encoder from scratch on a CPU, for tests and for trying out a data directory."""
    world_experiment.shrink(config)
    config.model.pretrained = config.model.content_pretrained = ""
    sizes = dict(
        conv_dim=(8, 8),
        conv_kernel=(80, 6),
        conv_stride=(64, 5),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        num_conv_pos_embeddings=8,
        num_frozen_layers=1,
    )
    config.model.encoder = ConfigDict(sizes)
    if config.model.content_encoder is not None:
        config.model.content_encoder = ConfigDict(
            sizes | dict(hidden_size=32, num_frozen_layers=0, freeze_feature_extractor=True)
        )
    config.model.precision.compute = "float32"
    config.pipeline.num_workers = 0
