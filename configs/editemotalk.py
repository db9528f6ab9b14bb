"""Diarizer and animator trained to be edited: a share of the faces is driven by edited embeddings, which only the emotional
consistency loss judges (EditEmoTalk, arXiv 2601.10000, with an emotion that moves in time).

Command:  python train.py --config=configs/editemotalk.py --workdir=runs/editemotalk \\
              --config.data.speech=records/ravdess,records/crema_d --config.data.face=records/emovoca \\
              --config.model.pretrained=DIR
          evaluate.py then fits the boundaries between emotions that `python -m sedtalker_jax edit` walks across.
Variants: configs/editemotalk.py:paper has one emotion vector per utterance, as published, and HuBERT for the words
          (--config.model.content_pretrained=DIR), in our backbone. The embedding is the mean over the clip and all heads read
          it, so category, intensity and residual are the utterance's; recordings beyond twice config.pipeline.max_seconds have
          a vector for each window. The paper's emotion encoder, emotion2vec, is not of this encoder family: WavLM-base-plus
          takes its place, unless its vectors are given as a file. Sizes, loss weights and data, which are not known of the
          paper, are ours.
          :paper with --config.pipeline.embeddings=FILE.npz reads the emotion of every recording from that file, in training
          and from evaluate.py: clip id -> one vector, of emotion2vec_base the 768 numbers "feats" that FunASR gives with
          granularity="utterance". A linear map takes them to the embedding; no encoder of emotion is loaded or run. All
          clips of all splits, voices and faces, need one; their ids, and their sound at 16 kHz, come from the records:

              records = every_record(["records/ravdess", "records/crema_d", "records/emovoca"])  # sedtalker_jax.data.mixing
              vectors = {record["id"]: emotion2vec(record["waveform"]) for record in records}
              write_given_embeddings("emotion2vec.npz", vectors)  # sedtalker_jax.data.given_embeddings

          `animate`, `diarize`, `edit` and `fit-style` then need the recording's own: --embedding FILE.npy.
          :smoke and :paper,smoke (a few steps of tiny encoders).
Cost and metrics: not yet measured on real data. On the built-in world: the editing claims (docs/claims.md).
"""

from ml_collections import ConfigDict

from configs import recorded_experiment, sedtalker


def get_config(arg: str = "") -> ConfigDict:
    """The config of one of the variants "", "paper", "smoke", "paper,smoke".

    Raises:
      ValueError: another variant.
    """
    if arg not in ("", "paper", "smoke", "paper,smoke"):
        raise ValueError(f"unknown variant {arg!r}: expected 'paper', 'smoke', 'paper,smoke' or nothing")
    config = sedtalker.get_config().unlock()
    # True, disturbed, heard and edited. Faces with neutral voices take embeddings of the step's emotional voices to edit; of
    # them the heard share is driven by disturbed schedules.
    config.pipeline.track_shares = (0.2, 0.2, 0.4, 0.2)
    config.loss.consistency = 0.5
    if arg.startswith("paper"):
        config.model.content_pretrained = "pretrained/hubert-base-ls960"
        config.model.content_encoder = ConfigDict(dict(freeze_feature_extractor=True, remat="dots_saveable"))
        config.model.diarizer.granularity = "utterance"
        # Utterances as they were recorded, each with one label and one level, and no change of emotion to find.
        config.pipeline.label_granularity = "utterance"
        config.pipeline.joins = config.pipeline.cross_fade = None
        config.loss.boundary = 0.0
    if arg.endswith("smoke"):
        recorded_experiment.shrink(config)
        # A motion reader is fitted to no fewer than nine faces.
        config.data.codec_clips = 16
    return config.lock()
