"""Diarizer and animator in one step, each from its own records: emotional voices for the one, moving faces for the other.

Command:  python train.py --config=configs/sedtalker.py --workdir=runs/sedtalker \\
              --config.data.speech=records/ravdess,records/crema_d --config.data.face=records/emovoca \\
              --config.model.pretrained=DIR
Variants: configs/sedtalker.py:smoke (a few steps of a tiny model). Records that hold voice and face of the same clips (3DMEAD,
          3D-RAVDESS) go to config.data.directory instead, with config.data.speech= and config.data.face= left empty.
Cost and metrics: not yet measured on real data.
"""

from ml_collections import ConfigDict

from configs import recorded_experiment
from sedtalker_jax.emotion.labels import LEVEL_SCALES


def get_config(arg: str = "") -> ConfigDict:
    """The config, or with arg "smoke" a variant that trains a few steps of a tiny model.

    Raises:
      ValueError: another variant.
    """
    config = recorded_experiment.base()
    config.data.speech = "records/ravdess,records/crema_d,records/esd,records/iemocap,records/meld"
    config.data.face = "records/emovoca"
    # Of the recordings that have several expressions, half go from one to another within the clip.
    config.pipeline.cross_fade = ConfigDict(dict(share=0.5))
    # How each training subject moves is learned beside what all share; at most so many (a run has as many as its data).
    config.model.animator.num_subjects = 512
    config.pipeline.joins = ConfigDict(dict())
    config.model.diarizer.level_scales = tuple(len(levels) for levels in LEVEL_SCALES.values())
    if arg == "smoke":
        recorded_experiment.shrink(config)
    elif arg:
        raise ValueError(f"unknown variant {arg!r}: expected 'smoke' or nothing")
    return config.lock()
