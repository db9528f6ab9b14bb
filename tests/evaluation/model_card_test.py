from sedtalker_jax.emotion import PAPER
from sedtalker_jax.evaluation.bootstrap import Interval
from sedtalker_jax.evaluation.model_card import write_model_card
from sedtalker_jax.evaluation.table import ScoreRow, ScoreTable


def test_a_card_names_data_licences_scores_and_gaps(tmp_path):
    table = ScoreTable("Emotion", ["ours"], [ScoreRow("frame_accuracy", {"ours": Interval(0.5, 0.4, 0.6, 10, 4)})])
    data = {"RAVDESS": {"licence": "CC BY-NC-SA 4.0", "hours": 1.5}, "own | clips": {"speakers": 3}}
    path = tmp_path / "MODEL_CARD.md"
    write_model_card(path, "diarizer", labels=PAPER, data=data, tables=[table], facts={"parameters": "1.4 M"})
    text = path.read_text()
    assert "| RAVDESS | CC BY-NC-SA 4.0 | 1.5 |  |" in text
    # A missing licence is said to be unknown, and a bar in a name does not split the cell.
    assert "| own \\| clips | unknown |  | 3 |" in text
    assert "emotions it has never seen: surprise" in text
    assert "0.500 [0.400, 0.600]" in text and "parameters: 1.4 M" in text
    assert "Not evaluated." not in text


def test_a_card_without_scores_says_so(tmp_path):
    write_model_card(tmp_path / "card.md", "untested", labels=PAPER, data={})
    assert "Not evaluated." in (tmp_path / "card.md").read_text()
