"""The diarizer on recorded corpora: emotion and intensity for every frame, changes of emotion made on the fly.

Command:  python train.py --config=configs/diarizer.py --workdir=runs/diarizer \\
              --config.data.speech=records/ravdess,records/crema_d --config.model.pretrained=DIR
Variants: configs/diarizer.py:paper (SEDTalker: seven emotions, WavLM-base-plus, a 768-256-128-7 head per frame),
          :speechbrain (WavLM-large, a linear head, one emotional event a clip), :smoke (a few steps of a tiny model).
Leave-one-corpus-out: --config.data.held_out=crema_d trains on the other corpora of data.speech; evaluate.py with the same
          flags scores all clips of the one left out.
Cost and metrics: not yet measured on real corpora.
"""

from ml_collections import ConfigDict

from configs import recorded_experiment
from sedtalker_jax.emotion.labels import LEVEL_SCALES, PAPER


def get_config(arg: str = "") -> ConfigDict:
    """The config of one of the variants "", "paper", "speechbrain", "smoke".

    Raises:
      ValueError: another variant.
    """
    config = recorded_experiment.base()
    config.data.speech = "records/ravdess,records/crema_d,records/esd,records/iemocap,records/meld"
    config.model.animator = None
    # {}: the defaults of sedtalker_jax.data.joins.JoinConfig.
    config.pipeline.joins = ConfigDict(dict())
    config.model.diarizer.level_scales = tuple(len(levels) for levels in LEVEL_SCALES.values())
    config.pipeline.levels = True
    if arg in ("paper", "speechbrain"):
        config.model.diarizer = ConfigDict(
            dict(embedding_size=128, backbone=None, hidden_sizes=(256,), hidden_dropout=0.3, level_scales=())
        )
        config.loss.update(intensity=0.0, levels=0.0, boundary=0.0, label_smoothing=0.0)
        config.optim.update(learning_rate=2e-4, weight_decay=1e-4)
    if arg == "paper":
        # Any order will do, labels travel by name; the model wants neutral first.
        config.model.labels = ("neutral", *(name for name in PAPER if name != "neutral"))
        config.accumulation = 4
        config.pipeline.batch_size = 64
    elif arg == "speechbrain":
        config.model.pretrained = "pretrained/wavlm-large"
        config.model.encoder = ConfigDict(dict(freeze_feature_extractor=True))
        config.model.diarizer.update(hidden_sizes=(), hidden_dropout=0.0)
        config.model.labels = ("neutral", "angry", "happy", "sad")
        # Every emotional utterance once an epoch, spliced to neutral speech without a pause. Ours are one gain a speaker and a
        # cross-fade of 15 ms where the recipe has one gain a clip and a hard cut.
        config.pipeline.joins.update(one_event=True, pause_probability=0.0, corpus_temperature=1.0, emotion_temperature=1.0)
    elif arg == "smoke":
        recorded_experiment.shrink(config)
    elif arg:
        raise ValueError(f"unknown variant {arg!r}: expected 'paper', 'speechbrain', 'smoke' or nothing")
    return config.lock()
