"""MELD: utterances cut from the series Friends, labels by listeners (Poria et al. 2019). The sound is in the mp4 files.

Layout: train_splits/dia0_utt0.mp4, dev_splits_complete/..., output_repeated_splits_test/..., and {train,dev,test}_sent_emo.csv.
Traps: dialogue numbers restart in each split, so the key is (split, dialogue, utterance), matched exactly; some clips are
corrupt, minutes long or under 0.2 s, some have no label; macOS left "._" files, and test holds "final_videos_test*" files.
Speakers cross the official split (69 names are in both train and test), the six leads above all. So ours goes by name:
fold k tests two leads, half of the guests (by the hash of the name) validate, all others train. Who plays two parts is one
speaker (Ursula is Phoebe's voice), and what several people say together is left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sedtalker_jax.data.corpora.corpus import SPLITS, Choices, Licence, Listing, Skipped
from sedtalker_jax.data.corpora.speech import SpeechCorpus, Utterance, find_table, matching_files, read_table
from sedtalker_jax.data.corpora.splits import hashed_share
from sedtalker_jax.errors import UserError

LEADS = ("chandler", "joey", "monica", "phoebe", "rachel", "ross")
TEST_LEADS = (("monica", "chandler"), ("phoebe", "joey"), ("rachel", "ross"))
"""A woman and a man of the leads for each fold."""

_FOLDERS = {"train_splits": "train", "dev_splits_complete": "dev", "output_repeated_splits_test": "test"}
_COLUMNS = ("Speaker", "Emotion", "Dialogue_ID", "Utterance_ID", "Season", "Episode", "Utterance")
# The same actor's voice: Ursula is played by Phoebe's actress, Russ by Ross's actor.
_SAME_VOICE = {"ursula": "phoebe", "ursula buffay": "phoebe", "russ": "ross"}
_SOMEBODY_OF = re.compile(r"\b\w+'s? (?!voice|message|machine|tape|recording|head|thoughts)\w+")
_SEVERAL = re.compile(
    r"\b(all|both|everyone|everybody|group|gang|girls|guys|others|crowd|together|kids|women|men|people|audience|chorus)\b"
    r"|\band\b|[&/,+]",
    re.IGNORECASE,
)


class Meld(SpeechCorpus):
    """See the module. `session` of a guest is the episode: "Woman" is another person in each."""

    name = "meld"
    licence = Licence("GPL-3.0 for the annotations", False, "github.com/declare-lab/MELD", "the clips are television footage")
    layout = (
        "train_splits/dia0_utt0.mp4, dev_splits_complete/..., output_repeated_splits_test/... "
        "and train_sent_emo.csv, dev_sent_emo.csv, test_sent_emo.csv (MELD.Raw, its three archives unpacked)"
    )
    official_clips = 13_708
    folds = len(TEST_LEADS)
    label_kind = "perceived"
    known_bad = {
        "train_dia125_utt3": "corrupt file",
        "train_dia309_utt0": "41 s long, badly cut",
        "test_dia38_utt4": "305 s long, badly cut",
        "test_dia220_utt0": "235 s long, badly cut",
    }
    maximum_seconds = 40.0

    def utterances(self, root: Path, choices: Choices) -> Iterator[Utterance | Skipped]:
        """See SpeechCorpus."""
        files = list(matching_files(root, (".mp4", ".wav"), rf"({'|'.join(_FOLDERS)})/([^/]+)\.(?:mp4|wav)"))
        if not files:
            return
        rows = {key: row for split in _FOLDERS.values() for key, row in _read_split(root, split)}
        for path, match in files:
            official, stem = _FOLDERS[match[1]], match[2]
            if not re.fullmatch(r"dia\d+_utt\d+", stem):
                yield Skipped(f"{official}_{stem}", "file name outside the layout", path)
                continue
            name = f"{official}_{stem}"
            row = rows.get(name)
            if row is None:
                yield Skipped(name, "no label in the tables", path)
                continue
            speaker = speaker_of(row["Speaker"])
            if not speaker:
                yield Skipped(name, "several people speak", row["Speaker"])
                continue
            episode = f"s{row['Season']:0>2}e{row['Episode']:0>2}"
            fields: dict[str, Any] = {
                "sentence": row["Utterance"],
                "language": "en-US",
                "official_split": official,
                "session": "" if speaker in LEADS else episode,
            }
            if speaker in LEADS:
                fields["sex"] = "female" if speaker in ("monica", "phoebe", "rachel") else "male"
            yield Utterance(name, path, speaker, row["Emotion"].lower(), fields)

    def list_clips(self, root: Path, choices: Choices) -> Listing:
        """See Corpus; the manifest also says how the official split overlaps and which clips of the tables are missing."""
        listing = super().list_clips(root, choices)
        official: dict[str, set[str]] = {}
        for clip in listing.clips:
            official.setdefault(clip.speaker, set()).add(clip.fields["official_split"])
        crossing = sorted(speaker for speaker, found in official.items() if len(found) > 1)
        known = {clip.id for clip in listing.clips} | {entry.id for entry in listing.skipped}
        missing = [name for split in _FOLDERS.values() for name, _ in _read_split(root, split) if name not in known]
        notes = {
            "official_split": {"overlapping": bool(crossing), "crossing_speakers": crossing},
            "missing_files": sorted(missing),
        }
        return Listing(listing.clips, listing.skipped, {**listing.manifest, **notes})

    def splits(self, choices: Choices) -> Mapping[str, str]:
        """Speaker -> split, for any name."""
        return _SplitOfSpeaker(TEST_LEADS[choices.fold])


class _SplitOfSpeaker(dict):
    """Answers for every name: a guest's split is a function of the name alone."""

    def __init__(self, test_leads: tuple[str, ...]) -> None:
        super().__init__({lead: "test" if lead in test_leads else "train" for lead in LEADS})

    def __missing__(self, speaker: str) -> str:
        return SPLITS[1] if hashed_share(f"meld {speaker}") < 0.5 else SPLITS[0]


def speaker_of(written: str) -> str:
    """One name per voice from the table's Speaker column; '' where several people speak.

    A name that holds a lead's ("Joey on TV", "Rachel's voice") is that lead; "Ross's mom" is somebody else.
    """
    name = " ".join(written.lower().replace("’", "'").split())
    if not name or _SEVERAL.search(name):
        return ""
    name = _SAME_VOICE.get(name, name)
    leads = [lead for lead in LEADS if re.search(rf"\b{lead}\b", _SOMEBODY_OF.sub("", name))]
    if len(leads) > 1:
        return ""
    return leads[0] if leads else name


def _read_split(root: Path, split: str) -> Iterator[tuple[str, dict[str, str]]]:
    table = find_table(root, f"{split}_sent_emo.csv")
    if table is None:
        raise UserError(
            f"{root}: {split}_sent_emo.csv is missing; it comes with MELD.Raw and is in declare-lab/MELD, data/MELD"
        )
    for row in read_table(table, _COLUMNS):
        yield f"{split}_dia{row['Dialogue_ID']}_utt{row['Utterance_ID']}", row


CORPUS = Meld()
