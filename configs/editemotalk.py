"""Diarizer and animator trained to be edited: a share of the faces is driven by edited embeddings, which only the emotional
consistency loss judges (EditEmoTalk, arXiv 2601.10000, with an emotion that moves in time).

Command:  python train.py --config=configs/editemotalk.py --workdir=runs/editemotalk \\
              --config.data.speech=records/ravdess,records/crema_d --config.data.face=records/emovoca \\
              --config.model.pretrained=DIR
          evaluate.py then fits the boundaries between emotions that `python -m sedtalker_jax edit` walks across.
Variants: configs/editemotalk.py:smoke (a few steps of a tiny model). The published system's single emotion vector per utterance
          has no variant.
Cost and metrics: not yet measured on real data. On the built-in world: the editing claims (docs/claims.md).
"""

from ml_collections import ConfigDict

from configs import recorded_experiment, sedtalker


def get_config(arg: str = "") -> ConfigDict:
    """The config, or with arg "smoke" a variant that trains a few steps of a tiny model.

    Raises:
      ValueError: another variant.
    """
    if arg not in ("", "smoke"):
        raise ValueError(f"unknown variant {arg!r}: expected 'smoke' or nothing")
    config = sedtalker.get_config().unlock()
    # True, disturbed, heard and edited. Faces with neutral voices take embeddings of the step's emotional voices to edit; of
    # them the heard share is driven by disturbed schedules.
    config.pipeline.track_shares = (0.2, 0.2, 0.4, 0.2)
    config.loss.consistency = 0.5
    if arg == "smoke":
        recorded_experiment.shrink(config)
        # A motion reader is fitted to no fewer than nine faces.
        config.data.codec_clips = 16
    return config.lock()
