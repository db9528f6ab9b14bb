"""What sounds like emotion and is none, and what shapes a voice: each does what the rules say, and nothing else."""

import copy

import numpy as np
import pytest
import scipy.signal

from sedtalker_jax.data.world import acoustics
from sedtalker_jax.data.world.expression import PARAMETERS, plan_delivery
from sedtalker_jax.data.world.rules import Rules, load_rules
from sedtalker_jax.data.world.text import sentences, voices
from sedtalker_jax.data.world.timeline import plan_timeline

RULES = load_rules("configs/world_rules.toml")
RATE = 16_000
OFF = {
    "noise_probability": 0.0, "reverberation_probability": 0.0, "codec_probability": 0.0, "gain_db": [0.0, 0.0],
    "emphasis_probability": 0.0, "manner_probability": 0.0,
}  # fmt: skip


def rules_with(**changes):
    """The rules with no distractor but the given ones."""
    table = copy.deepcopy(RULES.table)
    table["distractors"].update({**OFF, **changes})
    return Rules(table, RULES.text, RULES.path)


def buzz(seconds=2.0, f0=140.0):
    times = np.arange(int(seconds * RATE)) / RATE
    wave = sum(np.sin(2 * np.pi * k * f0 * times) / k for k in range(1, 40))
    return (0.05 * wave * (0.6 + 0.4 * np.sin(2 * np.pi * 4.0 * times))).astype(np.float32)


def rms_db(wave):
    return 10.0 * np.log10(np.mean(np.square(wave, dtype=np.float64)))


def band_db(wave, low, high):
    frequencies, power = scipy.signal.welch(wave, RATE, nperseg=1024)
    return 10.0 * np.log10(power[(frequencies >= low) & (frequencies < high)].mean())


def timbre(num_samples, **values):
    zero = np.zeros(acoustics.num_frames(num_samples))
    names = ("level_db", "tilt_db", "presence_db", "body_db", "smile", "breath")
    return acoustics.Timbre(**{name: zero + values.get(name, 0.0) for name in names})


def shaped(**values):
    wave = buzz()
    return acoustics.shape_speech(wave, timbre(len(wave), **values), np.random.default_rng(0))


def test_a_plain_timbre_changes_nothing():
    wave = buzz()
    error = shaped()[600:-600] - wave[600:-600]
    assert rms_db(error) < rms_db(wave) - 50.0


def test_each_control_of_the_timbre_moves_its_part_of_the_spectrum():
    plain = shaped()
    assert abs(rms_db(shaped(level_db=6.0)) - rms_db(plain) - 6.0) < 0.1
    tilted = shaped(tilt_db=6.0)
    tilt = [band_db(wave, 3500, 4500) - band_db(wave, 420, 580) for wave in (tilted, plain)]
    assert abs(tilt[0] - tilt[1] - 6.0) < 0.7
    assert band_db(shaped(presence_db=6.0), 2600, 3000) - band_db(plain, 2600, 3000) == pytest.approx(6.0, abs=0.7)
    assert abs(band_db(shaped(presence_db=6.0), 200, 600) - band_db(plain, 200, 600)) < 0.3
    assert band_db(shaped(body_db=6.0), 240, 360) - band_db(plain, 240, 360) == pytest.approx(6.0, abs=0.8)

    def between_harmonics(wave):
        frequencies, power = scipy.signal.welch(wave, RATE, nperseg=4096)
        place = (frequencies / 140.0) % 1.0
        return 10.0 * np.log10(power[(np.abs(place - 0.5) < 0.15) & (frequencies > 2000) & (frequencies < 6000)].mean())

    assert between_harmonics(shaped(breath=0.3)) > between_harmonics(plain) + 10.0


def test_tremor_moves_pitch_and_no_word():
    wave = buzz(3.0)
    frames = np.zeros(acoustics.num_frames(len(wave)))
    assert acoustics.wobble(wave, frames, frames, np.random.default_rng(0)) is wave
    shaken = acoustics.wobble(wave, frames + 1.0, frames, np.random.default_rng(0))
    assert len(shaken) == len(wave)

    def envelope(x):
        return np.convolve(np.abs(x), np.ones(800) / 800, mode="same")[::80]

    lag = np.argmax(np.correlate(envelope(shaken) - envelope(shaken).mean(), envelope(wave) - envelope(wave).mean(), "full"))
    assert abs(lag - (len(envelope(wave)) - 1)) <= 2  # 10 ms
    assert rms_db(shaken - wave) > rms_db(wave) - 25.0


def through_channel(seed=0, wave=None, **changes):
    wave = buzz() if wave is None else wave
    babble = np.random.default_rng(9).standard_normal(4 * RATE).astype(np.float32)
    return acoustics.channel(rules_with(**changes), wave, babble, np.random.default_rng(seed))


def test_a_clean_channel_is_transparent():
    np.testing.assert_allclose(through_channel(), buzz(), atol=1e-6)


@pytest.mark.parametrize("babble", [0.0, 1.0])
def test_noise_has_the_level_that_the_rules_ask_for(babble):
    wave = buzz()
    noisy = through_channel(noise_probability=1.0, noise_snr_db=[12.0, 12.0], babble_probability=babble)
    assert rms_db(wave) - rms_db(noisy - wave) == pytest.approx(12.0, abs=0.2)


def test_a_room_rings_after_the_sound_and_keeps_its_start():
    wave = np.concatenate([buzz(1.0), np.zeros(RATE // 2, np.float32)])
    wet = through_channel(
        wave=wave, reverberation_probability=1.0, reverberation_s=[0.4, 0.4], reverberation_wet_db=[-6.0, -6.0]
    )
    early, late = wet[RATE : RATE + 1600], wet[RATE + 6400 :]
    assert rms_db(early) > rms_db(wave[:RATE]) - 25.0
    assert rms_db(late + 1e-9) < rms_db(early) - 40.0


def test_a_line_cuts_its_band():
    noise = (0.05 * np.random.default_rng(1).standard_normal(2 * RATE)).astype(np.float32)
    line = through_channel(wave=noise, codec_probability=1.0, codec_band_hz=[[200.0, 3600.0]], codec_bits=[12, 12])
    assert abs(band_db(line, 500, 3000) - band_db(noise, 500, 3000)) < 1.0
    assert band_db(line, 6000, 7500) < band_db(noise, 6000, 7500) - 25.0


def test_nothing_leaves_the_range_of_a_recording():
    loud = through_channel(wave=20.0 * buzz(), gain_db=[6.0, 6.0])
    assert np.abs(loud).max() <= 0.981


def test_distractors_come_as_often_as_the_rules_say():
    wave, gain = buzz(0.3), RULES["distractors"]["gain_db"]
    made = [acoustics.channel(RULES, wave, buzz(1.0), np.random.default_rng(i)) for i in range(400)]
    alike = [np.array_equal(result, through_channel(i, wave, gain_db=gain)) for i, result in enumerate(made)]
    table = RULES["distractors"]
    clean = (1 - table["noise_probability"]) * (1 - table["reverberation_probability"]) * (1 - table["codec_probability"])
    assert np.mean(alike) == pytest.approx(clean, abs=0.07)


def deliver(rules, seed, label=0):
    voice = voices(RULES, "tiny")["train"][0]
    rng = np.random.default_rng(seed)
    timeline = plan_timeline(rules, 10, rng, seed, single_label=label)
    return plan_delivery(rules, voice, timeline, ["map"] * 10, rng)


def test_emphasis_lifts_one_word_of_a_neutral_clip():
    rules = rules_with(emphasis_probability=1.0, emphasis={"pitch_st": 12.0, "level_db": 30.0, "rate_oct": -0.5})
    for seed in range(10):
        said = deliver(rules, seed)
        pitch = np.array([word.pitch_st for word in said.words])
        lifted = pitch - np.median(pitch) > 6.0
        assert lifted.sum() == 1 and np.array_equal(said.word_level_db > 15.0, lifted)


def test_manner_makes_neutral_speech_fast_or_loud():
    rules = rules_with(manner_probability=1.0, manner={"rate_oct": 0.5, "level_db": 20.0})
    rates = np.array([np.mean([word.rate_log2 for word in deliver(rules, seed).words]) for seed in range(200)])
    levels = np.array([deliver(rules, seed).offset[0, PARAMETERS.index("level_db")] for seed in range(200)])
    for values, size in ((rates, 0.3), (levels, 10.0)):
        assert 0.2 < np.mean(values > size) < 0.4 and 0.2 < np.mean(values < -size) < 0.4


def test_a_share_of_the_sentences_asks():
    texts = sentences(RULES)["train"]
    assert np.mean([text.endswith("?") for text in texts]) == pytest.approx(
        RULES["sentences"]["question_probability"], abs=0.03
    )
