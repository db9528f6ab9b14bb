"""Diarizer and animator in one step, each from its own records: emotional voices for the one, moving faces for the other.

Command:  python train.py --config=configs/sedtalker.py --workdir=runs/sedtalker \\
              --config.data.speech=records/ravdess,records/crema_d --config.data.face=records/emovoca \\
              --config.model.pretrained=DIR
Variants: configs/sedtalker.py:paper follows SEDTalker (arXiv 2604.13335): WavLM-base-plus hears the emotion, with a head of
          768-256-128-7 units per frame and the paper's seven emotions; wav2vec 2.0 large
          (--config.model.content_pretrained=DIR) hears the words; Mamba and attention in the order M E A E M E of width 512;
          faces are driven by their label and its intensity, constant over the clip, without a residual of the voice. Ours in
          it: intensity is learned from levels and not taken for confidence; utterances are joined, so that emotion changes
          within clips; the condition enters by adaptive norm; the head predicts coefficients of the vertex basis; one
          optimizer at the animator's learning rate trains both halves.
          :smoke and :paper,smoke (a few steps of tiny encoders).
          Records that hold voice and face of the same clips (3DMEAD, 3D-RAVDESS) go to config.data.directory instead, with
          config.data.speech= and config.data.face= left empty.
Sizes of :paper, without weights or data: python -m sedtalker_jax.training.full_size
Cost and metrics: not yet measured on real data.
"""

from ml_collections import ConfigDict

from configs import animator, diarizer, recorded_experiment
from sedtalker_jax.emotion.labels import LEVEL_SCALES


def get_config(arg: str = "") -> ConfigDict:
    """The config of one of the variants "", "paper", "smoke", "paper,smoke".

    Raises:
      ValueError: another variant.
    """
    if arg not in ("", "paper", "smoke", "paper,smoke"):
        raise ValueError(f"unknown variant {arg!r}: expected 'paper', 'smoke', 'paper,smoke' or nothing")
    config = recorded_experiment.base()
    config.data.speech = "records/ravdess,records/crema_d,records/esd,records/iemocap,records/meld"
    config.data.face = "records/emovoca"
    # Of the recordings that have several expressions, half go from one to another within the clip.
    config.pipeline.cross_fade = ConfigDict(dict(share=0.5))
    # How each training subject moves is learned beside what all share; at most so many (a run has as many as its data).
    config.model.animator.num_subjects = 512
    config.pipeline.joins = ConfigDict(dict())
    if arg.startswith("paper"):
        _follow_paper(config)
    config.model.diarizer.level_scales = tuple(len(levels) for levels in LEVEL_SCALES.values())
    config.pipeline.levels = True
    if arg.endswith("smoke"):
        recorded_experiment.shrink(config)
    return config.lock()


def _follow_paper(config: ConfigDict) -> None:
    """In place: the paper's two halves side by side."""
    voices, faces = diarizer.get_config("paper"), animator.get_config("paper")
    config.model.labels = voices.model.labels
    config.model.diarizer = ConfigDict(voices.model.diarizer)
    config.model.animator = ConfigDict(faces.model.animator)
    config.model.content_pretrained = faces.model.pretrained
    config.model.content_encoder = ConfigDict(faces.model.encoder)
    config.model.style_residual = False
    for name in ("vertices", "lips", "upper_face", "velocity", "upper_face_velocity", "upper_face_acceleration"):
        config.loss[name] = faces.loss[name]
    config.loss.update(boundary=0.0, label_smoothing=0.0)
    config.optim.update(learning_rate=faces.optim.learning_rate, weight_decay=voices.optim.weight_decay)
    config.accumulation = voices.accumulation
    config.pipeline.update(batch_size=voices.pipeline.batch_size, track_shares=(1.0, 0.0, 0.0))
    config.pipeline.cross_fade = None
