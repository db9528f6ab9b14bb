"""Every shipped config loads in all of its variants, and its parts fit the dataclasses that take them."""

import importlib

import pytest
from absl import flags
from ml_collections import config_flags

from sedtalker_jax.errors import UserError
from sedtalker_jax.models.track_source import EDITED_TRACK
from sedtalker_jax.training.checkpoint import CheckpointConfig
from sedtalker_jax.training.experiment import model_config, reading_given
from sedtalker_jax.training.losses import LossConfig
from sedtalker_jax.training.optim import OptimConfig
from sedtalker_jax.training.parallel import ParallelConfig
from sedtalker_jax.training.streams import HALVES, streams_of

VARIANTS = {
    "demo": ("", "causal", "smoke"),
    "world": ("", "causal", "smoke"),
    "claims": ("diarizer", "animator", "joint", "diarizer,smoke", "animator,smoke", "joint,smoke", "smoke"),
    "diarizer": ("", "paper", "speechbrain", "smoke"),
    "animator": ("", "paper", "jambatalk-vocaset", "jambatalk-biwi", "causal", "smoke"),
    "sedtalker": ("", "paper", "smoke", "paper,smoke"),
    "editemotalk": ("", "paper", "smoke", "paper,smoke"),
}


@pytest.mark.parametrize(("name", "arg"), [(name, arg) for name, args in VARIANTS.items() for arg in args])
def test_every_variant_fits_its_dataclasses(name, arg):
    config = importlib.import_module(f"configs.{name}").get_config(arg)
    LossConfig(**config.loss)
    OptimConfig(**config.optim)
    CheckpointConfig(**config.checkpoint)
    ParallelConfig(**config.parallel)
    streams = streams_of(config.data, config.pipeline, [half for half in HALVES.values() if config.model[half]])
    if config.model.diarizer is not None:
        # Of clips with voice and face, which nobody joins, too.
        assert config.pipeline.levels or not config.model.diarizer.get("level_scales")
    utterance = name == "editemotalk" and arg.startswith("paper")
    granularity = "utterance" if utterance else "frame"
    assert all(stream.pipeline.label_granularity == granularity and not stream.pipeline.tracks for stream in streams)
    joins = {stream.parts: stream.pipeline.joins for stream in streams}
    if name == "diarizer":
        assert joins["speech",].one_event == (arg == "speechbrain")
    # Edited rows are judged by the consistency of motion and emotion, or by closed lips.
    edited = [stream.pipeline.track_shares[EDITED_TRACK:] for stream in streams if "face" in stream.parts]
    assert any(edited) == bool(config.loss.get("consistency")) == (name == "editemotalk")
    if not config.model.get("pretrained"):
        made = model_config(config.model, {"rank": 8, "template_size": 4})
        if made.animator is not None:
            assert (made.animator.backbone.obstacle_to_streaming is None) == (arg == "causal")
        assert (made.diarizer is None, made.animator is None) == (config.model.diarizer is None, config.model.animator is None)


@pytest.fixture
def overridden(monkeypatch):
    """Gives the config of a command line: the config's name, then flags."""

    def parse(name, *arguments):
        command = ["train.py", f"--config=configs/{name}", *arguments]
        # ml_collections looks for the overrides in the command line itself.
        monkeypatch.setattr("sys.argv", command)
        values = flags.FlagValues()
        holder = config_flags.DEFINE_config_file("config", None, "", flag_values=values)
        values(command)
        return holder.value

    return parse


SHARES = "--config.pipeline.track_shares=(0.5, 0.5, 0.0)"


@pytest.mark.parametrize("name", ["demo.py", "sedtalker.py:smoke", "animator.py"])
def test_given_tracks_come_from_the_command_line(name, overridden):
    config = overridden(name, "--config.pipeline.tracks=t.npz", SHARES)
    faces = [stream.pipeline for stream in streams_of(config.data, config.pipeline) if "face" in stream.parts]
    assert [pipeline.tracks for pipeline in faces] == ["t.npz"] and faces[0].track_shares == (0.5, 0.5, 0.0)
    # A fade is of several clips, and the file has no track of it.
    assert faces[0].cross_fade is None


def test_what_batches_hold_of_the_labels_comes_from_the_command_line(overridden):
    flags = "--config.pipeline.label_granularity=utterance", "--config.pipeline.one_emotion_only=True"
    config = overridden("demo.py", *flags, "--config.pipeline.levels=True")
    (stream,) = streams_of(config.data, config.pipeline)
    assert (stream.pipeline.label_granularity, stream.pipeline.one_emotion_only) == ("utterance", True)
    assert stream.pipeline.levels


def test_tracks_that_drive_no_face_are_refused(overridden):
    config = overridden("diarizer.py", "--config.pipeline.tracks=t.npz", SHARES)
    with pytest.raises(UserError, match="pipeline.tracks drives faces"):
        streams_of(config.data, config.pipeline)
    config = overridden("demo.py", "--config.pipeline.tracks=t.npz")
    with pytest.raises(UserError, match="must end in 0"):
        streams_of(config.data, config.pipeline)


def test_given_embeddings_come_from_the_command_line(overridden):
    config = overridden("editemotalk.py:paper", "--config.pipeline.embeddings=v.npz")
    streams = streams_of(config.data, config.pipeline)
    assert {stream.parts: stream.pipeline.embeddings for stream in streams} == {("speech",): "v.npz", ("face",): "v.npz"}
    config = overridden("sedtalker.py", "--config.pipeline.embeddings=v.npz")
    with pytest.raises(UserError, match="pipeline.joins must be None with pipeline.embeddings"):
        streams_of(config.data, config.pipeline)


@pytest.mark.parametrize(
    ("name", "arg", "encoders"),
    [
        ("editemotalk", "paper,smoke", {"content_encoder"}),
        ("editemotalk", "smoke", {"encoder"}),
        ("demo", "smoke", {"encoder"}),
        ("diarizer", "smoke", set()),
    ],
)
def test_a_model_that_reads_embeddings_has_encoders_for_the_words_alone(name, arg, encoders):
    config = importlib.import_module(f"configs.{name}").get_config(arg)
    model = model_config(reading_given(config.model.to_dict(), 12), {"rank": 8, "template_size": 4})
    assert set(model.encoders) == encoders
    assert (model.diarizer.given_size, model.diarizer.backbone, model.diarizer.frame_stacking) == (12, None, 1)


def test_embeddings_without_a_diarizer_are_refused():
    config = importlib.import_module("configs.animator").get_config("smoke")
    with pytest.raises(UserError, match="pipeline.embeddings is what a diarizer reads"):
        reading_given(config.model.to_dict(), 12)
