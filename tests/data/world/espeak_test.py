import time

import numpy as np
import pytest

from sedtalker_jax.data.world.clip import World, plan_clip
from sedtalker_jax.data.world.espeak import Espeak, build_ssml, num_swallowed
from sedtalker_jax.data.world.rules import load_rules
from sedtalker_jax.data.world.synthesiser import SpokenWord
from sedtalker_jax.errors import UserError

pytest.importorskip("espeakng_loader", reason="the world speaks with espeakng-loader (requirements-world.txt)")

TEXT = "Bob put the big map by the pump and my mother came home.".split()


@pytest.fixture(scope="module")
def espeak():
    with Espeak() as running:
        yield running


def spoken(pitch_st=0.0, range_log2=0.0, rate_log2=0.0, pause_after=None):
    return [SpokenWord(word, pitch_st, range_log2, rate_log2, 0.3 if i == pause_after else 0.0) for i, word in enumerate(TEXT)]


def median_pitch(speech):
    import pyworld

    f0, _ = pyworld.dio(speech.waveform.astype(np.float64), speech.sample_rate)
    return 12 * np.log2(np.median(f0[f0 > 0]))


def test_the_same_request_sounds_the_same_whatever_came_before(espeak):
    first = espeak.say(spoken(), "en-us+m3", 170)
    espeak.say(spoken(4.0, 0.5, 0.3), "en-gb-scotland+f2", 190)
    again = espeak.say(spoken(), "en-us+m3", 170)
    np.testing.assert_array_equal(first.waveform, again.waveform)
    assert first.phones == again.phones


def test_no_variant_speaks_otherwise_after_a_restart(espeak):
    """Breathy variants draw noise from a generator that espeak-ng seeds with the second in which it starts."""
    variants = load_rules("configs/world_rules.toml")["voices"]["variants"]
    words = spoken()[:4]
    first = {variant: espeak.say(words, f"en-us+{variant}", 170).waveform for variant in variants}
    time.sleep(1.1)
    with Espeak() as other:
        changed = [v for v in variants if not np.array_equal(other.say(words, f"en-us+{v}", 170).waveform, first[v])]
    assert not changed


def test_prosody_reaches_the_sound(espeak):
    plain = espeak.say(spoken(), "en-us+m3", 170)
    high = espeak.say(spoken(pitch_st=5.0), "en-us+m3", 170)
    fast = espeak.say(spoken(rate_log2=0.5), "en-us+m3", 170)
    pause = espeak.say(spoken(pause_after=4), "en-us+m3", 170)
    assert abs(median_pitch(high) - median_pitch(plain) - 5.0) < 1.0
    assert 0.6 < fast.words[-1, 1] / plain.words[-1, 1] < 0.85
    assert 0.2 < (pause.words[5, 0] - pause.words[4, 1]) - (plain.words[5, 0] - plain.words[4, 1]) < 0.7


def test_words_and_phonemes_are_in_order_and_belong_together(espeak):
    speech = espeak.say(spoken(), "en-us+m3", 170)
    assert speech.words.shape == (len(TEXT), 2)
    assert (np.diff(speech.words[:, 0]) >= 0).all() and (speech.words[:, 1] >= speech.words[:, 0]).all()
    assert all(a.end_s == pytest.approx(b.start_s) for a, b in zip(speech.phones[:-1], speech.phones[1:], strict=True))
    for i, letter in ((0, "b"), (1, "p"), (4, "m"), (7, "p")):
        assert next(phone.symbol for phone in speech.phones if phone.word == i) == letter
    assert next(phone.stress for phone in speech.phones if phone.symbol == "a" and phone.word == 4) == 1


def test_neighbours_never_carry_the_same_prosody():
    ssml, positions = build_ssml(spoken())
    pitches = [part.split('"')[0] for part in ssml.split('pitch="')[1:]]
    assert len(pitches) == len(TEXT)
    assert all(a != b for a, b in zip(pitches[:-1], pitches[1:], strict=True))
    assert [ssml[position:].split("<")[0] for position in positions] == TEXT


def test_no_clip_of_the_world_has_swallowed_words():
    world = World(load_rules("configs/world_rules.toml"), "demo")
    try:
        for split, index in [("train", i) for i in range(60)] + [("test", i) for i in range(40)]:
            plan = plan_clip(world, split, index)
            words = list(plan.delivery.words)
            speech = world.synthesiser.say(words, plan.voice.synthesiser_voice, plan.voice.words_per_minute)
            assert num_swallowed(words, speech, plan.voice.words_per_minute) <= 1, plan.text
            assert np.abs(speech.waveform).max() < 0.999, f"{plan.voice.name} is clipped"
    finally:
        world.close()


def test_an_unknown_voice_is_named(espeak):
    with pytest.raises(UserError, match="no-such-voice"):
        espeak.say(spoken(), "no-such-voice", 170)
    assert espeak.say(spoken(), "en-us+m3", 170).sample_rate == 22_050
