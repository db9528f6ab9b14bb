"""Turns a corpus in its official layout into a record directory (sedtalker_jax.data.records).

    python -m sedtalker_jax prepare --corpus ravdess --root DIR --out records/ravdess --workers 8

The contract of a reader. READERS maps a corpus's name to a module, imported only when it is asked for; the module holds
`CORPUS`, an instance of sedtalker_jax.data.corpora.corpus.Corpus. In order:

1. `CORPUS.list_clips(root, choices)` walks the official layout and returns a Listing: clips (id, path, split, speaker,
   plain record fields) and what it leaves out, each with a reason. It reads tables and file names, no sound. A root that
   is not this corpus raises UserError with the files that were expected and what was found. Splits are the reader's,
   by speaker name; `prepare` refuses a listing whose speakers cross, unless the reader says that its protocol does.
2. `--licence commercial` and `--limit` thin the listing out. A clip's own licence may stand in its fields as "licence" (a
   name) with "commercial" (bool); without them the corpus's Licence counts.
3. `CORPUS.fit(training_clips, root, out, workers, progress)` where the reader names `fit_files` and one is missing.
4. `CORPUS.make_record(clip, root, out)` in worker processes, clip by clip: a dict of record fields. `prepare` itself adds
   id, corpus, split, speaker, licence and the clip's `fields` where the reader did not. UserError leaves the clip out,
   counted and named in the manifest; any other exception is a bug and stops the build.
5. Shards are written through sedtalker_jax.data.building (restartable, the same bytes for any number of workers), then
   each split's index (data.index), the manifest last: identity, licence, per split the totals, clips and seconds per label,
   speaker, sex, language, the templates, and every clip that was left out, with its reason; then Listing.manifest and
   CORPUS.manifest(out).

Face readers put "fps" (> 0), "motion" [F, R], "activation" [F, K-1] and "template" into the record, and "face_space.npz"
into fit_files; speech readers leave them out, and fps = 0.0, template = "" are filled in.
"""

from __future__ import annotations

import hashlib
import importlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sedtalker_jax.data import records
from sedtalker_jax.data.building import Built, RecordBuild, add_up, plan_shards, total_up
from sedtalker_jax.data.corpora.corpus import SPLITS, Choices, Clip, Corpus, LeftOutError, Listing, Skipped
from sedtalker_jax.data.index import RecordIndex, index_name, index_row
from sedtalker_jax.data.pool import WorkerPool
from sedtalker_jax.errors import UserError

READERS: dict[str, str] = {
    "3d_ravdess": "sedtalker_jax.data.faces.threed_ravdess",
    "3dmead": "sedtalker_jax.data.faces.threedmead",
    "biwi": "sedtalker_jax.data.faces.biwi",
    "biwi_6": "sedtalker_jax.data.faces.biwi_6",
    "captures": "sedtalker_jax.data.faces.captures",
    "crema_d": "sedtalker_jax.data.corpora.crema_d",
    "emov_db": "sedtalker_jax.data.corpora.emov_db",
    "emovoca": "sedtalker_jax.data.faces.emovoca",
    "esd": "sedtalker_jax.data.corpora.esd",
    "iemocap": "sedtalker_jax.data.corpora.iemocap",
    "jl": "sedtalker_jax.data.corpora.jl",
    "meld": "sedtalker_jax.data.corpora.meld",
    "ravdess": "sedtalker_jax.data.corpora.ravdess",
    "savee": "sedtalker_jax.data.corpora.savee",
    "tess": "sedtalker_jax.data.corpora.tess",
    "vocaset": "sedtalker_jax.data.faces.vocaset",
    "zed": "sedtalker_jax.data.corpora.zed",
}
"""Corpus name -> module that holds its reader as CORPUS."""

CLIPS_PER_SHARD = 512
FORMAT = 1
_DAMAGED = "damaged or unreadable"


def load_corpus(name: str) -> Corpus:
    """The reader of a corpus.

    Raises:
      UserError: no such corpus.
    """
    if name not in READERS:
        raise UserError(f"--corpus {name}: unknown; the known ones are {', '.join(sorted(READERS))}")
    return _corpus_of(READERS[name])


def _corpus_of(module: str) -> Corpus:
    return importlib.import_module(module).CORPUS


def prepare(
    name: str,
    root: str | Path,
    out: str | Path,
    *,
    workers: int = 1,
    licence: str = "any",
    limit: int | None = None,
    fold: int = 0,
    options: Mapping[str, str] | None = None,
    overwrite: bool = False,
    progress: bool = True,
    clips_per_shard: int = CLIPS_PER_SHARD,
) -> dict[str, Any]:
    """Builds the record directory of one corpus and returns its manifest.

    Args:
      name: key of READERS.
      root: the corpus's own folder, as unpacked.
      out: directory to build; an interrupted build goes on, a finished one is returned as it is.
      workers: processes; they change the speed and nothing else.
      licence: "commercial" keeps only clips that allow commercial use; "any" keeps all.
      limit: at most this many clips, spread evenly over the listing, for trying out.
      fold: which partition into train, valid and test.
      options: choices of the corpus (Corpus.options).
      overwrite: whether what `out` holds may be replaced; a finished build of the same files is made again.
      progress: whether a progress bar with the time left is shown.
      clips_per_shard: what an interruption can cost.

    Raises:
      UserError: a wrong root, name or option; an output that cannot be written; no clip that can be used.
    """
    corpus = load_corpus(name)
    root, out = Path(root), Path(out)
    if workers < 1:
        raise UserError(f"--workers must be at least 1, not {workers}")
    if limit is not None and limit < 1:
        raise UserError(f"--limit must be at least 1, not {limit}")
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; --root names the unpacked {name} corpus")
    choices = check_choices(corpus, fold, options or {})
    listing = corpus.list_clips(root, choices)
    clips, skipped = _choose(corpus, listing, licence, limit)
    crossing = crossing_speakers(clips)
    if crossing and corpus.speaker_disjoint:
        raise ValueError(f"the {name} reader puts speakers into several splits: {', '.join(crossing)}")
    by_split = {split: [clip for clip in clips if clip.split == split] for split in SPLITS}
    identity = {
        "corpus": name,
        "fold": fold,
        "options": dict(choices.options),
        "licence_filter": licence,
        "limit": limit,
        "listing": _fingerprint(clips, root),
        "clips_per_shard": clips_per_shard,
        "format": FORMAT,
    }
    building = RecordBuild(out, identity, overwrite, rebuild=overwrite, files=corpus.fit_files)
    if building.finished is not None:
        return building.finished
    if any(not (out / file).exists() for file in corpus.fit_files):
        corpus.fit(by_split["train"], root, out, workers, progress)
    plan = plan_shards({split: len(members) for split, members in by_split.items()}, clips_per_shard)
    with WorkerPool(workers, _open, (READERS[name], str(root), str(out))) as pool:

        def make(jobs: list[tuple[str, int]]):
            return pool.map(_build, [(by_split[split][i],) for split, i in jobs], f"prepare {name}" if progress else None)

        written = building.write(plan, make)
    splits = {split: written.get(split, {"shards": []}) for split in SPLITS}
    shards = [shard for content in splits.values() for shard in content["shards"]]
    if not any(shard["records"] for shard in shards):
        building.clear()  # nothing of it is worth keeping, and another start must try all clips again
        left_out = [reason for shard in shards for _, reason, _ in shard["skipped"]]
        raise UserError(f"{name}: no usable clip under {root}; left out: {_counted(left_out)}")
    for split, content in splits.items():
        rows = [row for shard in content["shards"] for row in shard.pop("index", [])]
        RecordIndex.from_rows(rows).save(out / index_name(split))
    manifest = {**_manifest(corpus, splits, skipped, crossing), **listing.manifest, **corpus.manifest(out)}
    return building.finish(plan, manifest)


def check_choices(corpus: Corpus, fold: int, options: Mapping[str, str]) -> Choices:
    """The user's choices with the corpus's defaults filled in.

    Raises:
      UserError: a fold or an option that the corpus does not have.
    """
    if not 0 <= fold < corpus.folds:
        raise UserError(f"--fold {fold}: {corpus.name} has folds 0 to {corpus.folds - 1}")
    for option in options:
        if option not in corpus.options:
            known = ", ".join(f"{key} ({meaning})" for key, (_, meaning) in corpus.options.items()) or "none"
            raise UserError(f"--option {option}: {corpus.name} has no such option; it has {known}")
    return Choices(fold, {key: options.get(key, default) for key, (default, _) in corpus.options.items()})


def crossing_speakers(clips: Sequence[Clip]) -> list[str]:
    """Names of the speakers that are in more than one split, sorted."""
    splits: dict[str, set[str]] = {}
    for clip in clips:
        splits.setdefault(clip.speaker, set()).add(clip.split)
    return sorted(speaker for speaker, found in splits.items() if len(found) > 1)


def describe() -> str:
    """All readers: what the corpus is, its licence, folds and options."""
    lines = []
    for name in sorted(READERS):
        corpus = load_corpus(name)
        about = importlib.import_module(READERS[name]).__doc__ or ""
        use = "commercial use allowed" if corpus.licence.commercial else "no commercial use"
        lines.append(f"{name:12s} {' '.join(about.split(chr(10) * 2)[0].split())}")
        lines.append(f"{'':12s} licence {corpus.licence.name}, {use}; {corpus.folds} fold{'s' if corpus.folds > 1 else ''}")
        lines += [f"{'':12s} --option {key}={default}: {meaning}" for key, (default, meaning) in corpus.options.items()]
    return "\n".join(lines)


def summary_line(manifest: Mapping[str, Any]) -> str:
    """A finished build in one line."""
    parts = ", ".join(f"{split} {content['records']}" for split, content in manifest["splits"].items())
    line = f"{manifest['hours']:.2f} h ({parts} clips)"
    left_out = ", ".join(f"{entry['count']} {reason}" for reason, entry in manifest["skipped"].items())
    return f"{line}; left out: {left_out}" if left_out else line


def _choose(corpus: Corpus, listing: Listing, licence: str, limit: int | None) -> tuple[list[Clip], list[Skipped]]:
    clips = sorted(listing.clips, key=lambda clip: (SPLITS.index(clip.split), clip.id))
    names = {clip.id for clip in clips}
    if len(names) != len(clips):
        repeated = next(a.id for a, b in zip(clips, clips[1:], strict=False) if a.id == b.id)
        raise UserError(f"{corpus.name}: two files are both {repeated!r}; keep one layout of the corpus under --root")
    skipped = list(listing.skipped)
    if licence == "commercial":
        forbidden = [clip for clip in clips if not clip.fields.get("commercial", corpus.licence.commercial)]
        skipped += [Skipped(clip.id, "licence without commercial use") for clip in forbidden]
        kept = {clip.id for clip in clips} - {clip.id for clip in forbidden}
        clips = [clip for clip in clips if clip.id in kept]
        if not clips:
            note = f"; {corpus.licence.note}" if corpus.licence.note else ""
            raise UserError(
                f"--licence commercial leaves nothing of {corpus.name}: its licence is {corpus.licence.name}{note}; "
                "leave the flag away for research"
            )
    elif licence != "any":
        raise UserError(f"--licence {licence}: give any or commercial")
    if not clips:
        raise UserError(f"{corpus.name}: no usable clip under --root; left out: {_counted([clip.reason for clip in skipped])}")
    if limit is not None and limit < len(clips):
        clips = [clips[len(clips) * i // limit] for i in range(limit)]
    return clips, skipped


def _counted(reasons: Sequence[str]) -> str:
    """The commonest reasons with their counts."""
    return ", ".join(f"{count} {reason}" for reason, count in Counter(reasons).most_common(3)) or "nothing"


def _fingerprint(clips: Sequence[Clip], root: Path) -> str:
    """Changes when a clip does: its split, what is known of it, or the size of a file of its own."""

    def size(path: str) -> int:
        try:
            return (root / path).stat().st_size
        except OSError:  # a name inside a bigger file, or a link to nothing, which is found when the clip is read
            return -1

    rows = []
    for clip in clips:
        known = {name: value for name, value in vars(clip).items() if name != "options"}  # these are in the identity already
        rows.append([{**known, "fields": dict(clip.fields)}, size(clip.path), size(known.get("motion", ""))])
    return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()[:16]


def _open(module: str, root: str, out: str) -> tuple[Corpus, Path, Path]:
    return _corpus_of(module), Path(root), Path(out)


def _build(held: tuple[Corpus, Path, Path], clip: Clip) -> Built:
    """A clip's record and summary, in a worker."""
    corpus, root, out = held
    try:
        record = corpus.make_record(clip, root, out)
    except LeftOutError as error:
        return None, {"skipped": [[clip.id, error.reason, error.detail]]}
    except UserError as error:
        return None, {"skipped": [[clip.id, _DAMAGED, str(error)]]}
    known = {
        "id": clip.id,
        "corpus": corpus.name,
        "split": clip.split,
        "speaker": clip.speaker,
        "licence": corpus.licence.name,
        "fps": 0.0,
        "template": "",
    }
    record = {**known, **clip.fields, **record}
    return records.encode_record(record), _summary(record)


def _summary(record: Mapping[str, Any]) -> dict[str, Any]:
    seconds = round(record["num_samples"] / 16_000, 4)
    frames = {label: int((record["emotion"] == i).sum()) for i, label in enumerate(record["labels"])}
    summary: dict[str, Any] = {"samples": record["num_samples"], "frames": {k: n for k, n in frames.items() if n}}
    summary["index"] = [index_row(record)]
    for name in ("speaker", "sex", "language", "label", "official_split", "template", "expression"):
        if record.get(name):
            summary[name] = {str(record[name]): {"clips": 1, "seconds": seconds}}
    if record.get("level") is not None:
        summary["level"] = {f"{record['level_scale']}:{record['level']}": {"clips": 1, "seconds": seconds}}
    return summary


def _manifest(corpus: Corpus, splits: dict[str, Any], skipped: Sequence[Skipped], crossing: Sequence[str]) -> dict[str, Any]:
    left_out: dict[str, dict[str, str]] = {}
    for entry in skipped:
        left_out.setdefault(entry.reason, {})[entry.id] = entry.detail
    for split in splits.values():
        total_up(split)
        for plural, name in _SUMMARIES.items():
            split[plural] = {}
            for shard in split["shards"]:
                add_up(split[plural], shard.pop(name, {}))
            for counted in split[plural].values():
                counted["seconds"] = round(counted["seconds"], 2)
        for shard in split["shards"]:
            for clip, reason, detail in shard.pop("skipped", []):
                left_out.setdefault(reason, {})[clip] = detail
    licence = corpus.licence
    return {
        "licence": {
            "name": licence.name,
            "commercial": licence.commercial,
            "source": licence.source,
            "note": licence.note,
        },
        "hours": round(sum(split["hours"] for split in splits.values()), 4),
        "speaker_disjoint": not crossing,
        "crossing_speakers": list(crossing),
        "skipped": {reason: {"count": len(clips), "clips": clips} for reason, clips in left_out.items()},
        "splits": splits,
    }


_SUMMARIES = {
    "speakers": "speaker",
    "sexes": "sex",
    "languages": "language",
    "labels": "label",
    "levels": "level",
    "official_splits": "official_split",
    "templates": "template",
    "expressions": "expression",
}
"""Key in the manifest's splits -> record field that it counts."""
