from sedtalker_jax.data.records import write_json
from sedtalker_jax.emotion import PAPER
from sedtalker_jax.evaluation.bootstrap import Interval
from sedtalker_jax.evaluation.model_card import MODEL_CARD, data_facts, write_model_card, write_run_card
from sedtalker_jax.evaluation.table import ScoreRow, ScoreTable


def test_a_card_names_data_licences_scores_and_gaps(tmp_path):
    table = ScoreTable("Emotion", ["ours"], [ScoreRow("frame_accuracy", {"ours": Interval(0.5, 0.4, 0.6, 10, 4)})])
    data = {"RAVDESS": {"licence": "CC BY-NC-SA 4.0", "hours": 1.5}, "own | clips": {"speakers": 3}}
    path = tmp_path / "MODEL_CARD.md"
    scored = "the test split, 4 of 128 clips"
    write_model_card(path, "diarizer", labels=PAPER, data=data, tables=[table], scored=scored, facts={"parameters": "1.4 M"})
    text = path.read_text()
    assert "| RAVDESS | CC BY-NC-SA 4.0 | 1.5 |  |" in text
    # A missing licence is said to be unknown, and a bar in a name does not split the cell.
    assert "| own \\| clips | unknown |  | 3 |" in text
    assert "emotions it has never seen: surprise" in text
    assert "## Scores\n\nOf the test split, 4 of 128 clips.\n" in text
    assert "0.500 [0.400, 0.600]" in text and "parameters: 1.4 M" in text
    assert "Not evaluated." not in text


def test_a_card_without_scores_says_so(tmp_path):
    write_model_card(tmp_path / "card.md", "untested", labels=PAPER, data={})
    assert "Not evaluated." in (tmp_path / "card.md").read_text()


def manifest(directory, **content):
    directory.mkdir()
    splits = {"train": {"records": 7, "hours": 1.234, "speakers": ["a", "b"], "frames": {}}}
    write_json(directory / "manifest.json", {"splits": splits, **content})
    return str(directory)


def test_a_runs_card_tells_licences_from_the_manifests_and_what_was_held_out(tmp_path):
    directories = [
        manifest(tmp_path / "one", corpus="ravdess", licence={"name": "CC BY-NC-SA 4.0", "commercial": False}),
        manifest(tmp_path / "two", corpus="crema_d", licence={"name": "ODbL 1.0"}, licence_filter="commercial"),
        manifest(tmp_path / "three", corpus="captures"),
        manifest(tmp_path / "four", world="world-a", world_hash="abc"),
    ]
    facts = data_facts(directories)
    licences = {name: entry["licence"] for name, entry in facts.items()}
    assert licences == {
        "ravdess": "CC BY-NC-SA 4.0",
        "crema_d": "ODbL 1.0",
        "captures": "unknown",
        "world-a": "synthesised by this project",
    }
    assert facts["ravdess"]["training voices"] == 2 and "clips kept" not in facts["ravdess"]
    assert "commercial" in facts["crema_d"]["clips kept"]
    meta = {
        "model": {"diarizer": {"embedding_size": 24}, "animator": None},
        "config": {"model": {"pretrained": "pretrained/wavlm-large"}, "data": {"held_out": "meld"}},
        "labels": PAPER,
        "world_hash": "",
    }
    write_run_card(tmp_path, meta, directories, 1_000)
    text = (tmp_path / MODEL_CARD).read_text()
    for expected in ("parts: diarizer\n", "training steps: 1000", "wavlm-large", "meld", "ODbL 1.0", "Not evaluated."):
        assert expected in text, expected
    assert "pretrained/wavlm" not in text, "no paths of the machine"


def test_a_runs_card_tells_of_given_embeddings_and_not_of_the_encoder_that_they_replace(tmp_path):
    meta = {
        "model": {"encoder": None, "content_encoder": {}, "diarizer": {"given_size": 12}, "animator": {"rank": 8}},
        "config": {
            "model": {"pretrained": "pretrained/wavlm-base-plus", "content_pretrained": "pretrained/hubert-base-ls960"},
            "data": {},
            "pipeline": {"embeddings": "vectors/emotion2vec.npz"},
        },
        "labels": PAPER,
        "world_hash": "",
    }
    write_run_card(tmp_path, meta, [manifest(tmp_path / "one", corpus="ravdess")], 1_000)
    text = (tmp_path / MODEL_CARD).read_text()
    assert "encoder of the words begun from: hubert-base-ls960\n" in text and "wavlm" not in text
    assert "emotion read from: given embeddings of 12 numbers, emotion2vec.npz\n" in text
