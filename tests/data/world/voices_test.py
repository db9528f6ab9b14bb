import dataclasses

import numpy as np
import pytest

from sedtalker_jax.data.world.expression import PARAMETERS, plan_delivery, voice_tables
from sedtalker_jax.data.world.faces import FaceCast
from sedtalker_jax.data.world.rules import SPLITS, load_rules, parse_rules
from sedtalker_jax.data.world.text import clip_words, sentences, voices
from sedtalker_jax.data.world.timeline import plan_timeline
from sedtalker_jax.errors import UserError

RULES = load_rules("configs/world_rules.toml")
RULES_B = load_rules("configs/world_b_rules.toml")


@pytest.mark.parametrize("rules", [RULES, RULES_B], ids=["a", "b"])
def test_no_sentence_voice_or_variant_of_the_test_split_is_in_another(rules):
    own = sentences(rules)
    everything = [text for split in SPLITS for text in own[split]]
    assert len(set(everything)) == len(everything) > 1500
    cast = voices(rules, "full")
    names = [voice.name for split in SPLITS for voice in cast[split]]
    assert len(set(names)) == len(names)
    assert len(cast["test"]) >= 40
    variants = {split: {voice.synthesiser_voice.split("+")[-1] for voice in cast[split]} for split in SPLITS}
    assert not variants["test"] & (variants["train"] | variants["valid"])


def test_world_a_keeps_validation_variants_apart_too():
    cast = voices(RULES, "full")
    variants = {split: {voice.synthesiser_voice.split("+")[1] for voice in cast[split]} for split in SPLITS}
    assert not variants["train"] & variants["valid"]


@pytest.mark.parametrize("rules", [RULES, RULES_B], ids=["a", "b"])
def test_voices_of_a_split_differ_in_what_is_heard(rules):
    for own in voices(rules, "full").values():
        settings = {(v.synthesiser_voice, v.words_per_minute, round(v.vocal_tract, 3), round(v.pitch_st, 2)) for v in own}
        assert len(settings) == len(own)


def test_heads_are_enough_and_in_one_split_of_one_world():
    seeds = []
    for rules in (RULES, RULES_B):
        faces = FaceCast(rules, "full")
        assert [faces.num_heads(split) for split in SPLITS] >= [24, 6, 10]
        seeds += [faces.head_seed(split, i) for split in SPLITS for i in range(faces.num_heads(split))]
        assert faces.find_head(faces.head_name("test", 9)) == ("test", 9)
    assert len(set(seeds)) == len(seeds) >= 80
    assert max(seeds) < 2**32


def test_no_test_sentence_voice_or_head_of_a_world_is_in_the_other():
    for one, other in ((RULES, RULES_B), (RULES_B, RULES)):
        everything = sentences(other)
        assert not set(sentences(one)["test"]) & {text for split in SPLITS for text in everything[split]}
        names = {voice.name for split in SPLITS for voice in voices(other, "full")[split]}
        assert not {voice.name for voice in voices(one, "full")["test"]} & names
    heads = [FaceCast(rules, "full").head_name("test", 0) for rules in (RULES, RULES_B)]
    assert heads[0] != heads[1]
    with pytest.raises(UserError, match="no head"):
        FaceCast(RULES_B, "full").find_head(heads[0])


@pytest.mark.parametrize("rules", [RULES, RULES_B], ids=["a", "b"])
def test_voices_of_a_smaller_subset_are_the_first_of_the_full_world(rules):
    demo, full = voices(rules, "demo"), voices(rules, "full")
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


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda text: text.replace('test = ["slt", "awb"]', 'test = ["slt", "rms"]'), "rms in the test split"),
        (lambda text: text.replace('valid = ["rms"]', "valid = []"), "valid split without"),
    ],
)
def test_a_voice_that_could_leak_into_the_test_split_is_refused(change, named):
    with pytest.raises(UserError, match=f"my_rules.toml.*{named}"):
        voices(parse_rules(change(RULES_B.text), "my_rules.toml"), "tiny")


def test_a_misspelt_setting_of_heads_is_named():
    rules = parse_rules(RULES_B.text.replace("asymmetry = 0.10\n", "asymetry = 0.10\n"))
    with pytest.raises(UserError, match="asymetry.*asymmetry"):
        FaceCast(rules, "tiny")


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
