"""Articulation: closures, contacts, coarticulation, and that speech and emotion are not a sum."""

import time
import warnings

import numpy as np
import pytest

from sedtalker_jax.emotion.labels import ACTIVE
from sedtalker_jax.errors import UserError
from sedtalker_jax.face.additivity import additive_residual, babble
from sedtalker_jax.face.articulation import Phoneme, articulate, blinks, expression_weights
from sedtalker_jax.face.head import average_style, make_head
from sedtalker_jax.face.phonemes import REST, visemes_of
from sedtalker_jax.face.rig import INDEX, NUM_WEIGHTS
from sedtalker_jax.face.rules import DEFAULT_FACE_RULES, face_rules
from tests.face.measures import lip_opening

FPS = 30.0


def activation(num_frames, **felt):
    out = np.zeros((num_frames, len(ACTIVE)))
    for name, value in felt.items():
        out[:, ACTIVE.index(name)] = value
    return out


def say(text, length=0.1, start=0.2, stress=0):
    return [Phoneme(s, start + k * length, start + (k + 1) * length, stress) for k, s in enumerate(text.split())]


def weights_of(phonemes, style=None, rules=None, fps=FPS, **felt):
    num_frames = int(np.ceil((phonemes[-1].end_s + 0.3) * fps))
    return articulate(phonemes, num_frames, fps, activation(num_frames, **felt), style, rules)


def test_is_deterministic_and_in_range():
    a, b = (weights_of(babble(1), make_head(5).style, angry=0.7) for _ in range(2))
    assert a.dtype == np.float32 and a.shape[1] == NUM_WEIGHTS
    assert a.tobytes() == b.tobytes()
    assert a[:, :52].min() >= 0.0 and a[:, :52].max() < 1.6
    assert (a[:, [INDEX["eyeBlinkLeft"], INDEX["eyeBlinkRight"]]] == 0).all(), "blinks are no part of the truth"


@pytest.mark.parametrize("emotion", [None, *ACTIVE])
def test_lips_close_for_p_b_m(emotion):
    """The opening at nearly every closure is below 30% of the clip's median opening, on heads that differ."""
    ratios = []
    for seed in range(6):
        head, phonemes = make_head(200 + seed), babble(seed, syllables=16)
        w = weights_of(phonemes, head.style, **({emotion: 0.8} if emotion else {}))
        opening = lip_opening(head.vertices(w))
        median = np.median(opening[int(phonemes[0].start_s * FPS) : int(phonemes[-1].end_s * FPS)])
        for p in phonemes:
            if "PP" in visemes_of(p.symbol):
                frames = slice(int(p.start_s * FPS), int(np.ceil(p.end_s * FPS)) + 1)
                ratios.append(opening[frames].min() / median)
    assert len(ratios) > 5
    assert np.mean(np.array(ratios) < 0.3) >= 0.95


def test_lips_never_cross():
    for seed in range(4):
        head = make_head(300 + seed)
        w = weights_of(babble(seed), head.style, upset=1.0)
        assert ((w.astype(float) @ head.style.opening) > -2e-4).all()


def test_lower_lip_meets_the_teeth_for_f_and_v():
    style = average_style()
    w = weights_of(say("a f a v a", 0.15), style)
    at = [int(round((0.2 + 0.15 * (k + 0.5)) * FPS)) for k in (1, 3)]
    opening = w @ style.opening
    assert (opening[at] < 0.4 * opening.max()).all()
    assert (w[at, INDEX["mouthRollLower"]] > 0.3).all()


def test_vowels_have_their_shapes():
    def middle(vowel):
        return weights_of(say(f"t {vowel} t", 0.2))[int(0.5 * FPS)]

    assert middle("A:")[INDEX["jawOpen"]] > 2 * middle("i:")[INDEX["jawOpen"]]
    assert middle("u:")[INDEX["mouthPucker"]] > 0.4 > middle("i:")[INDEX["mouthPucker"]] + 0.3
    assert middle("i:")[INDEX["mouthStretchLeft"]] > 0.15


def test_neighbours_colour_a_consonant_and_speed_undershoots():
    pucker = INDEX["mouthPucker"]
    at = int(round(0.25 * FPS))
    assert weights_of(say("t u: t"))[at, pucker] > 0.08 > weights_of(say("t i: t"))[at, pucker]
    jaw = INDEX["jawOpen"]
    slow, fast = (weights_of(say("t A: t A: t", length))[:, jaw].max() for length in (0.2, 0.06))
    assert fast < 0.8 * slow


def test_jaw_lags_behind_no_sound_and_is_smooth():
    w = weights_of(say("t A: t", 0.25), fps=100.0)
    peak = w[:, INDEX["jawOpen"]].argmax() / 100.0
    assert abs(peak - 0.575) < 0.06
    assert np.abs(np.diff(w[:, INDEX["jawOpen"]], 2)).max() < 0.02


def test_frame_rate_does_not_change_the_movement():
    phonemes = say("t A: s u: t i: k", 0.12)
    slow, fast = weights_of(phonemes, fps=25.0), weights_of(phonemes, fps=100.0)
    np.testing.assert_allclose(slow[:, INDEX["jawOpen"]], fast[::4][: len(slow), INDEX["jawOpen"]], atol=0.03)


def test_silence_is_rest_and_an_expression_holds():
    w = articulate([], 30, FPS, activation(30))
    np.testing.assert_allclose(w, 0.0, atol=1e-6)
    happy = articulate([], 30, FPS, activation(30, happy=1.0))
    np.testing.assert_allclose(happy[15], expression_weights(activation(1, happy=1.0))[0], atol=0.02)


@pytest.mark.parametrize("emotion", ["angry", "sad", "disgust"])
def test_an_expression_comes_to_the_brows_first_and_leaves_them_last(emotion):
    rise = np.clip((np.arange(100) - 30) / 40.0, 0.0, 1.0)
    pose = np.zeros((200, len(ACTIVE)))
    pose[:, ACTIVE.index(emotion)] = np.concatenate([rise, rise[::-1]])
    weights = articulate([], 200, 100.0, pose)
    half = {}
    for region, name in (("brows", "browDownLeft"), ("mouth", "mouthFrownLeft")):
        above = np.flatnonzero(weights[:, INDEX[name]] > 0.5 * weights[:, INDEX[name]].max())
        half[region] = above[0], above[-1]
    assert half["brows"][0] <= half["mouth"][0] - 3 and half["brows"][1] >= half["mouth"][1] + 3


def test_emotion_changes_the_size_of_speech():
    jaw = {
        e: weights_of(say("t A: t A: t", 0.12), **({e: 1.0} if e else {}))[:, INDEX["jawOpen"]].max()
        for e in (None, "angry", "sad")
    }
    assert jaw["angry"] > 1.15 * jaw[None] > 1.15 * 1.2 * jaw["sad"]


def test_a_smile_gives_way_to_rounding_and_rounding_to_a_smile():
    smile, pucker = INDEX["mouthSmileLeft"], INDEX["mouthPucker"]
    u = say("u: u:", 0.25)
    at = int(0.45 * FPS)
    assert weights_of(u, happy=1.0)[at, smile] < 0.75 * weights_of(say("t t", 0.25), happy=1.0)[at, smile]
    assert weights_of(u, happy=1.0)[at, pucker] < 0.85 * weights_of(u)[at, pucker]


@pytest.mark.parametrize("intensity", [0.5, 1.0])
def test_speech_and_expression_are_not_a_sum(intensity):
    """The best additive model of the mouth leaves at least 10% of the expression's energy."""
    values = [additive_residual(make_head(s), babble(s), intensity) for s in range(5)]
    assert min(values) >= 0.10


def test_every_head_has_its_own_visemes_and_expressions():
    phonemes = babble(3)
    one, two = (weights_of(phonemes, make_head(s).style, happy=0.5) for s in (1, 2))
    assert np.abs(one - two).max() > 0.05


def test_adding_an_emotion_or_viseme_moves_no_other():
    rules = face_rules({"visemes": {"XX": {"jawOpen": 0.3, "dominance": [1, 1, 1]}}})
    style = make_head(4).style
    np.testing.assert_array_equal(weights_of(babble(2), style, rules), weights_of(babble(2), style))


def test_all_espeak_english_mnemonics_are_known():
    """Phonemes of espeak-ng's English dialects, as its phoneme events report them."""
    known = (
        "p b t d k g f v T D s z S Z tS dZ m n N l r w j h x ? t2 t# n- l- l# r- z# w# I I2 I# i i: i@ i@3 E E2 E# e eI "
        "e@ e@3 EI a a# a2 aa A: A@ A@3 0 0# O O: O2 O@ O@3 o@ OI oU oU# o V V@ U U@ u u: @ @2 @5 @L @- 3 3: 3r "
        "aI aI@ aI3 aU aU@ aI2 VR _ _: _!"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for symbol in known.split():
            names = visemes_of(symbol)
            assert all(name in DEFAULT_FACE_RULES["visemes"] for name in names), symbol
    assert visemes_of("'A:") == visemes_of("A:") == ("AA",)
    assert visemes_of("_:") == visemes_of("") == REST
    assert visemes_of("aI") == ("AA", "IH") and visemes_of("m") == ("PP",)


def test_an_unknown_phoneme_is_a_schwa_and_warns_once():
    with pytest.warns(UserWarning, match="unknown phoneme 'qq7'"):
        assert visemes_of("qq7") == ("UH",)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        visemes_of("qq7")


def test_rules_merge_and_refuse_unknown_names():
    rules = face_rules({"coarticulation": {"jaw_frequency": 3.0}, "expressions": {"happy": {"mouthSmile": 1.0}}})
    assert rules["coarticulation"]["jaw_frequency"] == 3.0 and rules["coarticulation"]["core"] == 0.3
    assert rules["expressions"]["happy"] == {"mouthSmile": 1.0}
    assert DEFAULT_FACE_RULES["expressions"]["happy"] != {"mouthSmile": 1.0}
    with pytest.raises(UserError, match="coarticulation.jaw_speed"):
        face_rules({"coarticulation": {"jaw_speed": 3.0}})
    with pytest.raises(UserError, match="smil"):
        weights_of(say("t"), rules=face_rules({"expressions": {"happy": {"smil": 1.0}}}), happy=1.0)
    slack = weights_of(say("t A: t", 0.12), rules=rules)
    assert slack[:, INDEX["jawOpen"]].max() < weights_of(say("t A: t", 0.12))[:, INDEX["jawOpen"]].max()


def test_bad_activation_is_refused():
    with pytest.raises(ValueError, match="activation"):
        articulate([], 10, FPS, np.zeros((9, 7)))
    with pytest.raises(ValueError, match="activation"):
        articulate([], 10, FPS, np.full((10, 7), np.nan))


def test_blinks():
    track = blinks(900, FPS, 3)
    assert track.tobytes() == blinks(900, FPS, 3).tobytes() != blinks(900, FPS, 4).tobytes()
    assert track.min() == 0.0 and track.max() > 0.9
    starts = ((track[1:] > 0.3) & (track[:-1] <= 0.3)).sum()
    assert 4 <= starts <= 20


def test_four_seconds_take_milliseconds():
    phonemes = babble(0, syllables=30, length_s=0.06)
    style, felt = average_style(), activation(120, happy=0.5)
    articulate(phonemes, 120, FPS, felt, style)
    start = time.process_time()
    for _ in range(10):
        articulate(phonemes, 120, FPS, felt, style)
    assert (time.process_time() - start) / 10 < 0.02, "about 3 ms where nothing else runs"
