"""Tables of a job are whole, and unknown numbers are null."""

import json

import pytest

from sedtalker_jax.evaluation.claims.tables import save_table


def test_a_table_is_read_back_with_null_for_what_is_unknown(tmp_path):
    save_table(tmp_path, "noise", "EDER", ["clean", "0 dB"], [["ours", 0.25, float("nan")], ["theirs", None, 1]], "a note")
    table = json.loads((tmp_path / "tables" / "noise.json").read_text())
    assert table == {
        "title": "EDER",
        "columns": ["clean", "0 dB"],
        "rows": [["ours", 0.25, None], ["theirs", None, 1]],
        "note": "a note",
    }


def test_a_row_of_another_length_is_refused(tmp_path):
    with pytest.raises(ValueError, match="1 cells in row ours for 2 columns"):
        save_table(tmp_path, "noise", "EDER", ["clean", "0 dB"], [["ours", 0.25]])
    assert not (tmp_path / "tables").exists()
