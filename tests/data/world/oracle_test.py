"""The truth for what never happened. That it repeats a built record bit for bit is tested in ../synthetic_test.py."""

import numpy as np
import pytest

from sedtalker_jax.data.world.oracle import FaceOracle, edited, stretch
from sedtalker_jax.data.world.rules import load_rules
from sedtalker_jax.emotion.labels import ACTIVE
from sedtalker_jax.emotion.schedule import Edit, EditSchedule
from sedtalker_jax.errors import UserError

FRAMES, FPS = 60, 30.0
TIMES = np.arange(FRAMES) / FPS
HAPPY, SAD = ACTIVE.index("happy"), ACTIVE.index("sad")


def record(head="train-head-000", emotion=HAPPY, level=0.7, sounds=("m", "A:", "b", "u:", "p", "i:")):
    """What the oracle reads of a record."""
    activation = np.zeros((FRAMES, len(ACTIVE)))
    activation[:, emotion] = level
    phonemes = [[symbol, 0.2 + 0.25 * i, 0.45 + 0.25 * i] for i, symbol in enumerate(sounds)]
    stress = [1 if symbol.endswith(":") else 0 for symbol in sounds]
    return {
        "template": head, "fps": FPS, "motion": np.zeros((FRAMES, 4)), "activation": activation, "phonemes": phonemes,
        "prosody": {"stress": stress},
    }  # fmt: skip


@pytest.fixture(scope="module", params=["configs/world_rules.toml", "configs/world_b_rules.toml"])
def oracle(request):
    return FaceOracle(load_rules(request.param), "tiny")


def test_a_swap_has_the_speech_and_head_of_one_and_the_expression_of_the_other(oracle):
    head = oracle.faces.head_name("train", 0)
    one, other = record(head), record(oracle.faces.head_name("train", 1), SAD, sounds=("s", "aI", "s", "aI", "s", "aI"))
    swapped = oracle.render_pair(one, other)
    assert swapped.shape[0] == FRAMES
    np.testing.assert_array_equal(swapped, oracle.render_pair(one, {**other, "phonemes": [], "template": "whoever"}))
    np.testing.assert_array_equal(swapped, oracle.vertices(oracle.rig(one, other["activation"]), head))
    mouth = oracle.faces.head("train", 0).template.regions["mouth"]
    own = oracle.render_pair(one, one)
    assert np.abs(swapped[:, mouth] - own[:, mouth]).max() > 2e-3


def test_a_shorter_expression_is_stretched_ends_on_ends(oracle):
    ramp = np.outer(np.linspace(0.0, 1.0, 31), np.eye(len(ACTIVE))[HAPPY])
    longer = stretch(ramp, FRAMES)
    assert longer.shape == (FRAMES, len(ACTIVE))
    np.testing.assert_allclose(longer[:, HAPPY], np.linspace(0.0, 1.0, FRAMES), atol=1e-12)
    one = record(oracle.faces.head_name("train", 0))
    np.testing.assert_array_equal(
        oracle.render_pair(one, {"activation": ramp}), oracle.vertices(oracle.rig(one, longer), one["template"])
    )


def test_a_schedule_is_sampled_at_the_frames(oracle):
    one = record(oracle.faces.head_name("train", 0))

    def schedule(times):
        return np.outer(np.clip(times - 0.5, 0.0, 1.0), np.eye(len(ACTIVE))[SAD])

    shown = oracle.render_schedule(one, schedule)
    np.testing.assert_array_equal(shown, oracle.vertices(oracle.rig(one, schedule(TIMES)), one["template"]))
    neutral = oracle.render_schedule(one, lambda times: np.zeros((len(times), len(ACTIVE))))
    upper = oracle.faces.head("train", 0).template.regions["upper_face"]
    moved = np.abs(shown[:, upper] - neutral[:, upper]).max(axis=(1, 2))
    assert (moved[TIMES < 0.4] < 1e-9).all() and moved[-1] > 1e-3


def test_an_edit_without_alpha_is_the_record_itself(oracle):
    one = record(oracle.faces.head_name("train", 0))
    nothing = EditSchedule((Edit("sad", 0.0), Edit("neutral", 0.0)))
    np.testing.assert_array_equal(oracle.render_edit(one, nothing), oracle.render_pair(one, one))


def test_edits_add_to_the_target_take_from_the_source_and_stay_in_range():
    activation = record()["activation"]
    moved = edited(activation, EditSchedule((Edit("sad", 0.5, source="happy"),)), TIMES)
    np.testing.assert_allclose(moved[:, HAPPY], 0.2)
    np.testing.assert_allclose(moved[:, SAD], 0.5)
    assert edited(activation, EditSchedule((Edit("happy", 0.9),)), TIMES).max() == 1.0
    part = edited(activation, EditSchedule((Edit("sad", 0.6, start=1.0, end=1.4, fade=0.1),)), TIMES)
    assert (part[(TIMES < 0.9) | (TIMES > 1.5), SAD] == 0.0).all()
    np.testing.assert_allclose(part[(TIMES >= 1.0) & (TIMES <= 1.4), SAD], 0.6)
    np.testing.assert_allclose(edited(activation, EditSchedule((Edit("neutral", 0.5),)), TIMES)[:, HAPPY], 0.35)
    assert not edited(activation, EditSchedule((Edit("neutral", 1.0),)), TIMES).any()
    with pytest.raises(UserError, match="boredom"):
        edited(activation, EditSchedule((Edit("boredom", 0.5),)), TIMES)
    with pytest.raises(UserError, match="ends at"):
        edited(activation, EditSchedule((Edit("sad", 0.5, start=30.0, end=31.0),)), TIMES)


def test_heads_of_another_world_are_refused(oracle):
    for name in ("nobody", "c-train-head-000", oracle.faces.head_name("test", 50), "train-head-x"):
        with pytest.raises(UserError, match="no head"):
            oracle.vertices(np.zeros((1, 63), np.float32), name)
