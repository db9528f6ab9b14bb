"""The Transformer-Mamba animator on recorded faces, driven by each clip's own emotion schedule.

Command:  python train.py --config=configs/animator.py --workdir=runs/animator \\
              --config.data.face=records/emovoca --config.model.pretrained=DIR
Variants: configs/animator.py:paper (SEDTalker: pattern M E A E M E of width 512, content from wav2vec 2.0 large),
          :jambatalk-vocaset and :jambatalk-biwi (no emotion; learned rotary positions), :causal (sees no later frame; takes
          recordings of any length in one pass), :smoke.
Cost and metrics: not yet measured on real data.
"""

from ml_collections import ConfigDict

from configs import recorded_experiment, world_experiment

WAV2VEC_LARGE = "pretrained/wav2vec2-large-xlsr-53-english"

MAX_SUBJECTS = 512
"""More than any of the corpora has; a run's table has as many rows as its training data has subjects."""


def get_config(arg: str = "") -> ConfigDict:
    """The config of one of the variants "", "paper", "jambatalk-vocaset", "jambatalk-biwi", "causal", "smoke".

    Raises:
      ValueError: another variant.
    """
    config = recorded_experiment.base()
    # With VOCASET beside it when it is prepared, EmoVOCA's records hold VOCASET's neutral faces as well.
    config.data.face = "records/emovoca"
    # Of the recordings that have several expressions, half go from one to another within the clip.
    config.pipeline.cross_fade = ConfigDict(dict(share=0.5))
    config.model.diarizer = None
    # How each training subject moves is learned beside what all share.
    config.model.animator.num_subjects = MAX_SUBJECTS
    config.loss.update(category=0.0, intensity=0.0, levels=0.0, boundary=0.0)
    # There is no diarizer to listen to: the true schedule, half of the time with a diarizer's kind of errors.
    config.pipeline.track_shares = (0.5, 0.5, 0.0)
    if arg == "paper" or arg.startswith("jambatalk-"):
        # The release drives the whole clip by one label, and knows of a subject nothing but the template.
        config.model.animator.num_subjects = 0
        config.pipeline.cross_fade = None
        config.model.pretrained = WAV2VEC_LARGE
        config.model.encoder = ConfigDict(dict(freeze_feature_extractor=True))
        # Two experts, both always used: a mixture in name, as in the release.
        config.model.animator.backbone.update(
            pattern="MEAEME", width=512, feed_forward=4.0, learned_rotary_rank=16, num_heads=8, num_experts=2, top_k=2
        )
        # The release: Adam at 1e-4, mean squared errors of vertices and of velocities of equal weight.
        config.loss.update(vertices=1.0, velocity=1.0, lips=0.0, upper_face=0.0, upper_face_velocity=1.0)
        config.loss.upper_face_acceleration = 0.0
        config.optim.update(learning_rate=1e-4, weight_decay=0.0)
        heads = 4 if arg == "jambatalk-biwi" else 8
        config.model.animator.backbone.num_kv_heads = heads
        config.model.animator.backbone.num_heads = heads
    if arg.startswith("jambatalk-"):
        datasets = {"jambatalk-vocaset": "records/vocaset", "jambatalk-biwi": "records/biwi_6"}
        if arg not in datasets:
            raise ValueError(f"unknown variant {arg!r}: expected one of {', '.join(datasets)}")
        config.data.face = datasets[arg]
    elif arg == "causal":
        world_experiment.make_causal(config)
    elif arg == "smoke":
        recorded_experiment.shrink(config)
    elif arg not in ("", "paper"):
        raise ValueError(
            f"unknown variant {arg!r}: expected 'paper', 'jambatalk-vocaset', 'jambatalk-biwi', 'causal', 'smoke' or nothing"
        )
    return config.lock()
