"""The papers' models at full size, as shapes: sizes by hand, and a step that can be traced."""

import functools
import math

import jax
import pytest

from configs import sedtalker
from sedtalker_jax.speech import SpeechEncoderConfig
from sedtalker_jax.speech.checkpoint_names import tensor_specs
from sedtalker_jax.speech.parity import SIZES
from sedtalker_jax.training.full_size import full_size_step, main, noise_batch, parameters
from sedtalker_jax.training.step import train_step


def checkpoint_size(name):
    """Numbers in a published checkpoint of that kind."""
    return sum(math.prod(spec.shape) for spec in tensor_specs(SpeechEncoderConfig.from_hf(SIZES[name])))


def test_the_papers_model_has_two_published_encoders_and_its_step_traces():
    config = sedtalker.get_config("paper")
    objective, optimizer, create = full_size_step(config)
    shapes = jax.eval_shape(create)
    counts = parameters(shapes)
    assert sum(counts["encoder"]) == checkpoint_size("wavlm-base-plus")
    assert sum(counts["content_encoder"]) == checkpoint_size("wav2vec2-large-lv60")
    # Six of twelve layers of WavLM-base are trained, each of 12 D^2 weights and a little more; of wav2vec 2.0 large all 24.
    assert 6 < counts["encoder"][0] / (12 * 768**2) < 6.1
    assert 24 < counts["content_encoder"][0] / (12 * 1024**2) < 24.8
    # 768-256-128-7, and what hears strength and change.
    assert counts["diarizer"] == (769 * 256 + 257 * 128 + 129 * 7 + 129 * 32 + 33 * 2 + _thresholds(config), 0)
    batch = noise_batch(objective.model.config, 7, 100)
    step = functools.partial(train_step, objective=objective, optimizer=optimizer)
    after, metrics = jax.eval_shape(step, shapes, batch)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(lambda x: (x.shape, x.dtype), shapes)
    assert {"loss/category", "loss/vertices", "loss/moe_balance"} < set(metrics)


def _thresholds(config):
    scales = config.model.diarizer.level_scales
    return len(scales) * (max(scales) - 1)


@pytest.mark.parametrize("config", ["animator:paper", "editemotalk:paper"])
def test_the_command_prints_parameters_by_part(config, capsys):
    assert main(["--config", config]) == 0
    lines = capsys.readouterr().out.splitlines()
    total = int(lines[0].split(": ")[1].split()[0].replace(",", ""))
    parts = [[int(word.replace(",", "")) for word in line.split()[1::2]] for line in lines[1:]]
    assert sum(map(sum, parts)) == total
    assert ("content_encoder" in "".join(lines)) == config.startswith("editemotalk")
