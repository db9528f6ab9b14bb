"""What the experiments on the built-in world share."""

from ml_collections import ConfigDict

from sedtalker_jax.emotion.decoding import SHARPNESS

LABELS = ("neutral", "angry", "disgust", "fear", "happy", "sad", "surprise", "upset")


def base() -> ConfigDict:
    """Defaults at demo size. Every number has its unit in the dataclass that takes it (see training/experiment.py)."""
    config = ConfigDict()
    config.seed = 0
    config.num_steps = 1_000
    config.accumulation = 1
    config.eval_every = 300
    config.log_every = 10

    config.data = ConfigDict()
    config.data.directory = ""
    config.data.make_command = ""
    config.data.valid_clips = 48
    # Clips whose motion gives the statistics that normalise coefficients.
    config.data.codec_clips = 300
    config.data.template_code_size = 16

    config.pipeline = ConfigDict(
        dict(
            batch_size=16,
            seed=0,
            max_seconds=4.0,
            bucket_seconds=(4.0,),
            track_shares=(0.2, 0.2, 0.6),
            gain_db=2.0,
            # A file of emotion conditions by clip id that drive the faces instead of the records' own and the diarizer's
            # (sedtalker_jax.data.given_tracks); track_shares must then end in 0.
            tracks="",
            # A file of one vector per clip by clip id that the diarizer reads instead of hearing the sound
            # (sedtalker_jax.data.given_embeddings).
            embeddings="",
            # "utterance" copies a clip's commonest label to all of its frames.
            label_granularity="frame",
            one_emotion_only=False,
            # Whether batches hold the ordinal levels of intensity that a diarizer with level_scales learns from.
            levels=False,
            num_workers=0,
            prefetch=4,
        )
    )

    model = ConfigDict()
    model.labels = LABELS
    model.sharpness = SHARPNESS
    # The encoder family's module at a tiny size: two convolutions with the family's hop and reach (320 and 400 samples). It
    # can't learn pitch from scratch in minutes, so acoustic features join it.
    model.encoder = ConfigDict(
        dict(
            conv_dim=(32, 48),
            conv_kernel=(80, 6),
            conv_stride=(64, 5),
            hidden_size=48,
            num_hidden_layers=1,
            num_attention_heads=4,
            intermediate_size=96,
            num_conv_pos_embeddings=32,
        )
    )
    model.acoustics = ConfigDict(
        dict(
            num_mels=40,
            num_lags=48,
            pitch_low_hz=60.0,
            pitch_high_hz=500.0,
            voice_shift_mels=1.5,
            voice_shift_lags=4.0,
            mask_s=0.4,
        )
    )
    model.diarizer = ConfigDict(
        dict(
            embedding_size=24,
            frame_stacking=2,
            backbone=dict(pattern="MAM", width=96, state_size=8, num_heads=4, num_kv_heads=2, dropout=0.2),
        )
    )
    model.animator = ConfigDict(
        dict(
            condition_width=64,
            frame_stacking=2,
            # 0.1 s at 30 fps: without these and upper_face_acceleration the upper face trembles.
            condition_reach=3,
            motion_reach=3,
            backbone=dict(pattern="MAM", width=96, state_size=8, num_heads=4, num_kv_heads=2, dropout=0.05),
        )
    )
    model.precision = ConfigDict(dict(params="float32", compute="float32"))
    config.model = model

    config.loss = ConfigDict(
        dict(
            category=1.0,
            intensity=6.0,
            boundary=0.1,
            vertices=0.5,
            lips=3.0,
            upper_face=0.5,
            velocity=0.3,
            upper_face_velocity=0.3,
            acceleration=0.0,
            upper_face_acceleration=0.05,
            lip_closure=1.0,
            shown_emotion=0.0,
            lip_reading=0.0,
            moe_balance=0.01,
            label_smoothing=0.05,
        )
    )
    config.optim = ConfigDict(
        dict(
            name="adamw",
            learning_rate=6e-3,
            warmup_steps=80,
            final_fraction=0.02,
            weight_decay=0.02,
            beta1=0.9,
            beta2=0.98,
            clip_norm=1.0,
            ema_decay=0.99,
        )
    )
    config.checkpoint = ConfigDict(dict(every_steps=300, keep=2, keep_every_steps=0))
    config.parallel = ConfigDict(dict(mode="pmap", fsdp=1, fsdp_min_size=2**14))
    return config


def apply_variant(config: ConfigDict, arg: str) -> None:
    """Changes a config in place: shrinks it for arg "smoke", makes its animator causal for "causal".

    Raises:
      ValueError: unknown variant.
    """
    if arg == "smoke":
        shrink(config)
        config.model.encoder.update(conv_dim=(8, 8), hidden_size=16, num_attention_heads=2, intermediate_size=32)
    elif arg == "causal":
        make_causal(config)
    elif arg:
        raise ValueError(f"unknown variant {arg!r}: expected 'smoke', 'causal' or nothing")


def make_causal(config: ConfigDict) -> None:
    """In place: an animator that sees no frame after its step's last, and in its attention 4 s of earlier ones (at 30 fps).

    It takes recordings of any length in one pass, with a state of fixed size (sedtalker_jax.inference.streaming).
    """
    animator = config.model.animator
    animator.backbone.update(causal=True, window=120 // animator.get("frame_stacking", 1))


def shrink(config: ConfigDict) -> None:
    """In place: a few steps on a handful of clips."""
    config.num_steps = 4
    config.eval_every = 2
    config.log_every = 1
    config.data.valid_clips = 4
    config.data.codec_clips = 8
    config.data.template_code_size = 2
    config.pipeline.batch_size = 4
    config.pipeline.max_seconds = 2.0
    config.pipeline.bucket_seconds = (2.0,)
    config.checkpoint.every_steps = 2
    for part in (config.model.diarizer, config.model.animator):
        if part is not None and part.backbone is not None:
            part.backbone.update(pattern="MA", width=32, state_size=4, num_heads=2, num_kv_heads=1)
