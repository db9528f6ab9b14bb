import dataclasses

import numpy as np
import pytest

from sedtalker_jax.data.world.expression import PARAMETERS, plan_delivery, voice_tables
from sedtalker_jax.data.world.rules import SPLITS, load_rules, parse_rules
from sedtalker_jax.data.world.text import clip_words, sentences, voices
from sedtalker_jax.data.world.timeline import plan_timeline
from sedtalker_jax.errors import UserError

RULES = load_rules("configs/world_rules.toml")


def test_no_sentence_voice_or_variant_is_in_two_splits():
    own = sentences(RULES)
    everything = [text for split in SPLITS for text in own[split]]
    assert len(set(everything)) == len(everything) > 1500
    cast = voices(RULES, "full")
    variants = {split: {voice.synthesiser_voice.split("+")[1] for voice in cast[split]} for split in SPLITS}
    names = [voice.name for split in SPLITS for voice in cast[split]]
    assert len(set(names)) == len(names)
    assert len(cast["test"]) >= 40
    for a, b in (("train", "valid"), ("train", "test"), ("valid", "test")):
        assert not variants[a] & variants[b]


def test_test_voices_of_the_demo_are_test_voices_of_the_full_world():
    demo, full = voices(RULES, "demo"), voices(RULES, "full")
    for split in SPLITS:
        assert full[split][: len(demo[split])] == demo[split]


def test_two_thirds_of_the_sentences_close_the_lips_often():
    texts = sentences(RULES)["train"]
    closures = [sum(text.lower().count(letter) for letter in "pbm") for text in texts]
    assert np.mean(np.array(closures) >= 3) > 2 / 3


def test_words_of_a_clip_stay_in_the_range():
    low, high = RULES["sentences"]["words_per_clip"]
    pool = sentences(RULES)["valid"]
    for seed in range(50):
        text, words = clip_words(RULES, pool, np.random.default_rng(seed))
        assert low <= len(words) <= high and text.split() == words


def test_voices_express_by_their_own_tables_around_the_rules():
    cast = voices(RULES, "full")["train"]
    tables = np.stack([voice_tables(RULES, voice) for voice in cast])
    assert tables.shape == (len(cast), 8, len(PARAMETERS))
    assert (tables[:, 0] == 0).all()
    angry, level = 1, PARAMETERS.index("level_db")
    wanted = RULES["expression"]["overall"] * RULES["expression"]["angry"]["level_db"]
    assert abs(np.median(tables[:, angry, level]) / wanted - 1) < 0.15
    assert np.std(tables[:, angry, level]) > 0.1 * wanted
    # Some voices barely express.
    strength = np.abs(tables).sum(axis=(1, 2))
    assert (strength < 0.5 * np.median(strength)).any()


def test_emotion_moves_pitch_the_way_the_rules_say():
    voice = next(v for v in voices(RULES, "full")["train"])
    pitches = {}
    for label in (5, 6):  # sad, surprise
        own = []
        for seed in range(20):
            rng = np.random.default_rng(seed)
            timeline = plan_timeline(RULES, 10, rng, seed, single_label=label)
            words = plan_delivery(RULES, voice, timeline, ["map"] * 10, rng).words
            own.append(np.mean([word.pitch_st for word in words]))
        pitches[label] = np.mean(own)
    assert pitches[6] > pitches[5] + 2.0


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda text: text.replace("[labels]", "[lables]"), "labels"),
        (lambda text: text.replace("[expression.fear]", "[expression.feer]"), "fear"),
        (lambda text: text.replace("seed = 20260701", "seed = "), "TOML"),
        (lambda text: text.replace("heads = { train = 2, valid = 1, test = 1 }", "heads = { train = 2 }"), "heads"),
    ],
)
def test_broken_rules_are_named(change, named):
    with pytest.raises(UserError, match=named) as caught:
        parse_rules(change(RULES.text), "my_rules.toml")
    assert "my_rules.toml" in str(caught.value)
    assert "\n" not in str(caught.value).rstrip()


def test_missing_rules_file():
    with pytest.raises(UserError, match="nowhere.toml"):
        load_rules("nowhere.toml")


def test_the_hash_follows_values_and_not_comments():
    assert parse_rules(RULES.text + "\n# a remark\n").world_hash == RULES.world_hash
    assert parse_rules(RULES.text.replace("fps = 30.0", "fps = 25.0")).world_hash != RULES.world_hash


def test_generators_depend_on_every_part_of_their_key():
    draws = [RULES.generator(*key).random() for key in (("a", 1), ("a", 2), ("b", 1), ("a", 1, 0))]
    assert len(set(draws)) == 4
    assert RULES.generator("a", 1).random() == draws[0]
    assert dataclasses.replace(RULES, table={**RULES.table, "seed": 1}).generator("a", 1).random() != draws[0]
