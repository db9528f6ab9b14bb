"""What is said and who says it: sentences and voices, disjoint between splits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sedtalker_jax.data.world.rules import SPLITS, Rules
from sedtalker_jax.errors import UserError

# Word lists rich in p, b and m, whose closed lips a viewer checks first, and otherwise spread over the phonemes.
_LISTS: dict[str, tuple[str, ...]] = {
    "person": tuple(
        "my mother,my brother,Peter,Emma,Bobby,Pamela,the baker,the farmer,my best friend,Thomas,the bus driver,Abby,a man "
        "from Bombay,our neighbour,the painter,Simon,the postman,Maria,a young woman,the captain,Philip,the plumber,Martha,"
        "the new boss,Jim,Barbara,her father,the zoo keeper,George,Vivian,the judge,Chloe,a small boy,the whole team".split(",")
    ),
    "verb": tuple(
        "bought,moved,broke,found,painted,brought,missed,packed,saw,opened,washed,stopped,lost,carried,mended,put away,"
        "borrowed,picked,threw,watched,kept,pushed,wrapped,chose,sold,bumped into,dropped,pulled,measured,filmed".split(",")
    ),
    "adjective": tuple(
        "big,blue,broken,purple,empty,simple,beautiful,heavy,yellow,pretty,warm,tiny,old,marble,famous,cheap,damp,golden,"
        "bumpy,smooth,bright,wooden,shabby,plum coloured,huge,muddy,sharp,jumbo,thick,fresh".split(",")
    ),
    "thing": tuple(
        "boat,map,lamp,piano,book,apple,umbrella,pump,bicycle,window,bottle,stamp,basket,jumper,camera,table,ship,pepper mill,"
        "birthday cake,mirror,paper bag,mop,garden gate,teapot,rubber ball,violin,jam jar,suitcase,puppy,pipe,chimney,"
        "mushroom,film,hammock,drum,vase,coffee machine,zip,photo album,blanket".split(",")
    ),
    "place": tuple(
        "by the pump,in the basement,at the market,near the bridge,behind the shop,on the platform,in the bathroom,under the "
        "bed,at the museum,beside the river,on the beach,in the old barn,at the campsite,above the pub,outside the bank,"
        "in the swimming pool,on top of the bus,between the bushes,at the airport,in front of the chapel,in my room,"
        "along the path,by the harbour,in the apartment".split(",")
    ),
    "time": tuple(
        "this morning,last month,before breakfast,on Monday,at midnight,in September,after the film,a moment ago,by "
        "five,every summer,in the evening,on my birthday,yesterday,before the bell,all the time,at about half past "
        "two,during lunch,in the autumn,once more,that Friday".split(",")
    ),
    "reason": tuple(
        "because the bus was late,but nobody helped,and it made me laugh,so we both went home,although it was raining,and "
        "then the phone rang,but my arm hurt,because of the bad map,and we paid for both,so keep it safe,before the storm "
        "came,but the shop was shut,while the baby slept,and I could not believe it,so the problem is solved,"
        "if the number is right,because mum said so,but perhaps I am wrong".split(",")
    ),
    "said": tuple(
        "I hope,I suppose,they told me,we knew,maybe,you remember,I imagine,people say,she promised,I am sure,he "
        "mumbled,they believe,we assume,I bet,it seems".split(",")
    ),
}
_STATEMENTS = (
    "{person} {verb} the {adjective} {thing} {place} {time}",
    "{said} {person} {verb} a {adjective} {thing} {reason}",
    "{time} {person} {verb} the {thing} and the {adjective} {thing2}",
    "the {adjective} {thing} {place} belongs to {person}",
    "{person} put the {thing} {place} {reason}",
    "my {thing} and my {adjective} {thing2} were {place} {time}",
    "{person} came {time} with a {adjective} {thing} for me",
    "{said} the {adjective} {thing} must be {place}",
    "nobody {verb} that {adjective} {thing} {time} {reason}",
    "please bring me the {adjective} {thing} from the shop {place}",
)
_QUESTIONS = (
    "did {person} put the {adjective} {thing} {place} {time}",
    "have you ever {verb} a {adjective} {thing} {place}",
    "who moved the {thing} and the {adjective} {thing2} {time}",
    "is that {adjective} {thing} {place} the one {person} {verb}",
    "would {person} mind if I kept the {adjective} {thing}",
)


def _sentence(rng: np.random.Generator, question: bool) -> str:
    templates = _QUESTIONS if question else _STATEMENTS
    words = {name: str(rng.choice(choices)) for name, choices in _LISTS.items()}
    words["thing2"] = str(rng.choice([thing for thing in _LISTS["thing"] if thing != words["thing"]]))
    text = templates[int(rng.integers(len(templates)))].format(**words)
    return text[0].upper() + text[1:] + ("?" if question else ".")


def sentences(rules: Rules) -> dict[str, tuple[str, ...]]:
    """The distinct sentences of each split. No sentence is in two splits."""
    rng = rules.generator("sentences")
    wanted = rules["sentences"]["count"]
    found: dict[str, None] = {}
    while len(found) < sum(wanted[split] for split in SPLITS):
        question = bool(rng.random() < rules["sentences"]["question_probability"])
        found.setdefault(_sentence(rng, question))
    pool = list(found)
    result, start = {}, 0
    for split in SPLITS:
        result[split] = tuple(pool[start : start + wanted[split]])
        start += wanted[split]
    return result


@dataclass(frozen=True)
class Voice:
    """One speaker. vocal_tract: ratio of formants (and pitch) against the variant's own; the rest as in the rules file."""

    name: str
    synthesiser_voice: str
    words_per_minute: int
    vocal_tract: float
    pitch_st: float
    range_oct: float
    tilt_db: float
    breath: float


def voices(rules: Rules, subset: str) -> dict[str, tuple[Voice, ...]]:
    """The voices of each split of a subset; no variant of the test split speaks in another one.

    The voices of a subset are the first ones of one endless sequence per split, so subsets nest.

    Raises:
      UserError: when a split has no variant, or the test split shares one.
    """
    counts = rules["subsets"][subset]["voices"]
    return {split: tuple(_voice(rules, split, own, i) for i in range(counts[split])) for split, own in _variants(rules).items()}


def _variants(rules: Rules) -> dict[str, list[str]]:
    """The synthesiser's variants that each split may use: as the rules say, or shared out at random by variant_share."""
    table = rules["voices"]
    if isinstance(table["variants"], dict):
        result = {split: [str(v) for v in table["variants"].get(split, ())] for split in SPLITS}
    else:
        rng = rules.generator("variants")
        variants = [str(v) for v in rng.permutation(np.asarray(table["variants"], dtype=object))]
        share = np.array([table["variant_share"][split] for split in SPLITS], dtype=float)
        ends = np.round(np.cumsum(share / share.sum()) * len(variants)).astype(int)
        result = {split: variants[a:b] for split, a, b in zip(SPLITS, [0, *ends[:-1]], ends, strict=True)}
    for split, own in result.items():
        if not own:
            raise UserError(f"{rules.path}: [voices] leaves the {split} split without a variant")
    shared = set(result["test"]) & {*result["train"], *result["valid"]}
    if shared:
        raise UserError(f"{rules.path}: [voices] has {sorted(shared)[0]} in the test split and in another one")
    return result


def _voice(rules: Rules, split: str, variants: list[str], index: int) -> Voice:
    table = rules["voices"]
    rng = rules.generator("voice", split, index)
    # Every variant speaks once before one speaks twice; the accent moves on with each round.
    variant = variants[index % len(variants)]
    accents = table.get("accents")
    if accents:
        accent = accents[(index // len(variants) + int(rng.integers(len(accents)))) % len(accents)]
        name, synthesiser_voice = f"{accent}-{variant}", f"{accent}+{variant}"
    else:
        name = synthesiser_voice = variant
    speed, tract = table["words_per_minute"], table["vocal_tract_log"]
    rate = speed["mean"] * np.exp(speed["spread_log"] * rng.standard_normal())
    return Voice(
        name=f"{split}-{index:03d}-{name}",
        synthesiser_voice=synthesiser_voice,
        words_per_minute=int(np.clip(round(rate), speed["low"], speed["high"])),
        vocal_tract=float(np.exp(np.clip(tract["sd"] * rng.standard_normal(), -tract["limit"], tract["limit"]))),
        pitch_st=float(table["pitch_st"]["mean"] + table["pitch_st"]["sd"] * rng.standard_normal()),
        range_oct=float(table["pitch_range_oct"]["mean"] + table["pitch_range_oct"]["sd"] * rng.standard_normal()),
        tilt_db=float(table["timbre_tilt_db"]["sd"] * rng.standard_normal()),
        breath=float(np.clip(table["breath"]["mean"] + table["breath"]["sd"] * rng.standard_normal(), 0.0, 0.3)),
    )


def clip_words(rules: Rules, pool: tuple[str, ...], rng: np.random.Generator) -> tuple[str, list[str]]:
    """One or more sentences of the pool, joined, with a word count in the range of the rules: (text, words)."""
    low, high = rules["sentences"]["words_per_clip"]
    for _ in range(1000):
        target = int(rng.integers(low, high + 1))
        words: list[str] = []
        while len(words) < target:
            words += pool[int(rng.integers(len(pool)))].split()
        if low <= len(words) <= high:
            return " ".join(words), words
    raise UserError(f"{rules.path}: no sentences fit words_per_clip = [{low}, {high}]; widen it")
