"""The joint loss: what its terms are divided by."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from sedtalker_jax.models.sedtalker import SEDTalkerModel
from tests.support import random_batch, random_params, tiny_model, tiny_objective


def with_patterns(model, diarizer, animator):
    config = model.config
    halves = {
        name: dataclasses.replace(half, backbone=dataclasses.replace(half.backbone, pattern=pattern))
        for name, half, pattern in (("diarizer", config.diarizer, diarizer), ("animator", config.animator, animator))
    }
    return SEDTalkerModel(dataclasses.replace(config, **halves))


def even(path, leaf):
    """A router that finds all experts equally good."""
    return jnp.zeros_like(leaf) if path[-1].key == "router" else leaf


@pytest.mark.parametrize("parts", ["speech", "face with sound", "speech, face", "speech, face with sound"])
@pytest.mark.parametrize("diarizer, animator", [("E", "A"), ("A", "EE"), ("E", "EAE")])
def test_the_balance_of_an_even_load_is_one_whatever_has_experts(diarizer, animator, parts):
    whole = random_batch(3)
    model = with_patterns(tiny_model(scan="reference"), diarizer, animator)
    params = jax.tree_util.tree_map_with_path(even, random_params(model, whole))
    objective = tiny_objective(model)
    batch = {name: whole[name] for name in ("speech", "face") if name in parts}
    if "sound" in parts:
        batch["face"] = batch["face"] | {name: whole["speech"][name] for name in ("waveform", "lengths")}
    sums = jax.jit(objective.validation_sums)(params, batch)["moe_balance"]
    weight = objective.weights(batch)["moe_balance"]
    if parts == "speech" and diarizer == "A":
        assert sums == weight == 0
    else:
        assert sums / weight == pytest.approx(1.0, abs=1e-5)


def test_without_experts_there_is_no_balance_loss():
    model = with_patterns(tiny_model(), "A", "M")
    assert "moe_balance" not in tiny_objective(model).weights(random_batch(2))
