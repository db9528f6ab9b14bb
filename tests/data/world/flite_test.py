import numpy as np
import pytest

from sedtalker_jax.data.world import flite_server
from sedtalker_jax.data.world.clip import World, plan_clip
from sedtalker_jax.data.world.flite import Flite
from sedtalker_jax.data.world.rules import load_rules
from sedtalker_jax.data.world.synthesiser import SpokenWord
from sedtalker_jax.errors import UserError
from sedtalker_jax.face.phonemes import VISEMES_OF, visemes_of

needs_flite = pytest.mark.skipif(flite_server.find_library("flite") is None, reason="Flite is missing: apt-get install flite")
TEXT = "Bob put the big map by the pump and my mother came home.".split()


@pytest.fixture(scope="module")
def flite():
    with Flite() as running:
        yield running


def spoken(pitch_st=0.0, range_log2=0.0, rate_log2=0.0, pause_after=None):
    return [SpokenWord(word, pitch_st, range_log2, rate_log2, 0.3 if i == pause_after else 0.0) for i, word in enumerate(TEXT)]


def semitones(speech):
    import pyworld

    f0, _ = pyworld.dio(speech.waveform.astype(np.float64), speech.sample_rate, f0_floor=60.0)
    return 12.0 * np.log2(f0[f0 > 0])


@needs_flite
def test_an_answer_depends_on_its_request_alone(flite):
    first = flite.say(spoken(), "slt", 170)
    flite.say(spoken(pitch_st=4.0), "awb", 190)
    again = flite.say(spoken(), "slt", 170)
    np.testing.assert_array_equal(first.waveform, again.waveform)
    assert first.phones == again.phones
    with Flite() as other:
        np.testing.assert_array_equal(other.say(spoken(), "slt", 170).waveform, first.waveform)


@needs_flite
@pytest.mark.parametrize("voice", flite_server.VOICES)
def test_prosody_reaches_the_sound(flite, voice):
    plain = flite.say(spoken(), voice, 170)
    high = flite.say(spoken(pitch_st=4.0), voice, 170)
    fast = flite.say(spoken(rate_log2=0.5), voice, 170)
    pause = flite.say(spoken(pause_after=4), voice, 170)
    assert abs(np.median(semitones(high)) - np.median(semitones(plain)) - 4.0) < 0.7
    assert abs(fast.words[-1, 1] / plain.words[-1, 1] - 2.0**-0.5) < 0.03
    assert pause.words[5, 0] - pause.words[4, 1] == pytest.approx(0.3, abs=0.01)
    assert pause.words[-1, 1] - plain.words[-1, 1] == pytest.approx(0.3, abs=0.01)
    silence = pause.waveform[int((pause.words[4, 1] + 0.1) * 16_000) : int((pause.words[5, 0] - 0.1) * 16_000)]
    assert np.sqrt(np.mean(silence**2)) < 0.05 * np.sqrt(np.mean(pause.waveform**2))
    assert all(np.abs(speech.waveform).max() < 0.9 for speech in (plain, high, fast, pause))


@needs_flite
def test_range_widens_pitch_round_its_mean(flite):
    plain, wide = (semitones(flite.say(spoken(range_log2=width), "awb", 170)) for width in (0.0, 1.0))
    spread = [np.percentile(values, 85) - np.percentile(values, 15) for values in (plain, wide)]
    assert 1.6 < spread[1] / spread[0] < 2.4
    assert abs(np.median(wide) - np.median(plain)) < 1.0


@needs_flite
def test_words_and_phonemes_are_in_order_and_belong_together(flite):
    speech = flite.say(spoken(), "slt", 170)
    assert speech.words.shape == (len(TEXT), 2)
    assert (speech.words[:, 1] > speech.words[:, 0]).all() and (speech.words[1:, 0] >= speech.words[:-1, 1] - 1e-9).all()
    assert all(a.end_s == pytest.approx(b.start_s) for a, b in zip(speech.phones[:-1], speech.phones[1:], strict=True))
    assert speech.phones[-1].end_s == pytest.approx(len(speech.waveform) / 16_000, abs=0.01)
    for i, letter in ((0, "b"), (1, "p"), (4, "m"), (7, "p")):
        assert next(phone.symbol for phone in speech.phones if phone.word == i) == letter
    assert next(phone.stress for phone in speech.phones if phone.symbol == "a" and phone.word == 4) == 1
    # Closures are quiet: the times are those of the sound.
    level = [
        np.sqrt(np.mean(speech.waveform[int(p.start_s * 16_000) : int(p.end_s * 16_000)] ** 2))
        for p in speech.phones
        if p.symbol in ("b", "p", "a", "V", "oU")
    ]
    names = [p.symbol for p in speech.phones if p.symbol in ("b", "p", "a", "V", "oU")]
    loud = np.mean([x for x, name in zip(level, names, strict=True) if name not in "bp"])
    assert np.mean([x for x, name in zip(level, names, strict=True) if name in "bp"]) < 0.5 * loud


def test_all_phones_have_a_viseme_and_closures_stay_closures():
    from sedtalker_jax.data.world.flite import _SYMBOLS

    assert all(symbol in VISEMES_OF for name, symbol in _SYMBOLS.items() if name != "pau")
    assert {name for name, symbol in _SYMBOLS.items() if "PP" in visemes_of(symbol)} == {"p", "b", "m", "em"}


def test_time_is_stretched_by_word_and_held_for_pauses():
    ends = (("pau", 0.2, -1), ("b", 0.3, 0), ("aa", 0.5, 0), ("m", 0.6, 1), ("pau", 0.9, -1))
    starts = (0.0, *(end for _, end, _ in ends[:-1]))
    segments = [(name, start, end, 0, word) for start, (name, end, word) in zip(starts, ends, strict=True)]
    words = [["ba", 0.0, 0.0, -1.0, 0.25], ["m", 0.0, 0.0, 1.0, 0.0]]
    source, said = flite_server.plan_time(segments, words, 1.5, 180)
    assert [row[0] for row in said] == ["pau", "b", "aa", "pau", "m", "pau"]
    lengths = {(row[0], row[4]): row[2] - row[1] for row in said}
    assert lengths["aa", 0] == pytest.approx(0.2 * 1.5 * 2.0) and lengths["m", 1] == pytest.approx(0.1 * 1.5 / 2.0)
    assert said[3][2] - said[3][1] == pytest.approx(0.25)
    times = np.arange(len(source)) * 0.005
    inside = (times > said[2][1]) & (times < said[2][2])
    assert source[inside].min() * 0.005 >= 0.3 - 1e-9 and source[inside].max() * 0.005 <= 0.5 + 1e-9
    held = (times > said[3][1] + 1e-9) & (times < said[3][2] - 1e-9)
    assert len(set(source[held])) == 1 and source[held][0] * 0.005 < 0.2


def test_pitch_passes_smoothly_from_word_to_word():
    said = [("pau", 0.0, 0.1, 0, -1), ("aa", 0.1, 0.6, 1, 0), ("aa", 0.6, 1.1, 1, 1)]
    words = [["a", 0.0, 0.0, 0.0, 0.0], ["a", 6.0, 0.0, 0.0, 0.0]]
    pitch = np.full(220, 120.0)
    pitch[:20] = 0.0
    moved = flite_server.plan_pitch(pitch, said, words)
    assert (moved[:20] == 0.0).all()
    steps = 12.0 * np.log2(moved[20:] / 120.0)
    assert abs(steps[10]) < 1e-6 and abs(steps[-1] - 6.0) < 1e-6
    assert np.diff(steps).max() < 0.7 and np.diff(steps).min() > -1e-9


@needs_flite
def test_no_clip_of_world_b_is_clipped_or_lacks_a_word():
    world = World(load_rules("configs/world_b_rules.toml"), "demo")
    try:
        for split, index in [("train", i) for i in range(20)] + [("test", i) for i in range(20)]:
            plan = plan_clip(world, split, index)
            speech = world.synthesiser.say(list(plan.delivery.words), plan.voice.synthesiser_voice, plan.voice.words_per_minute)
            assert ((speech.words[:, 1] - speech.words[:, 0]) > 0.02).all(), plan.text
            assert np.abs(speech.waveform).max() < 0.95, f"{plan.voice.name} is clipped"
    finally:
        world.close()


@needs_flite
def test_an_unknown_voice_is_named(flite):
    with pytest.raises(UserError, match="no-such-voice.*apt-get install flite"):
        flite.say(spoken(), "no-such-voice", 170)
    assert flite.say(spoken(), "slt", 170).sample_rate == 16_000


def test_without_flite_the_message_says_how_to_get_it(monkeypatch):
    from sedtalker_jax.data.world import speaking

    real = speaking.subprocess.Popen
    without = "from sedtalker_jax.data.world import flite_server as s; s.find_library = lambda name: None; s.main()"

    def start(command, **options):
        return real([command[0], "-P", "-c", without], **options)

    monkeypatch.setattr(speaking.subprocess, "Popen", start)
    with Flite() as running, pytest.raises(UserError, match="not installed.*apt-get install flite") as caught:
        running.say(spoken(), "slt", 170)
    assert "\n" not in str(caught.value)
