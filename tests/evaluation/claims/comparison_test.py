import shutil

import numpy as np
import pytest

from sedtalker_jax.errors import UserError
from sedtalker_jax.evaluation.claims.__main__ import main
from sedtalker_jax.evaluation.claims.comparison import compare
from sedtalker_jax.evaluation.claims.jobs import FINISHED
from sedtalker_jax.evaluation.claims.scores import ArmScores
from sedtalker_jax.evaluation.claims.tables import save_table


def finish(job, seed, error=0.0):
    values = np.random.default_rng(seed).normal(size=3) + error
    ArmScores("toy", "ours", seed, tuple("abc"), tuple("xxy"), {"error": values}).save(job)
    save_table(job, "toy", "Toy", ["error"], [["ours", float(values.mean())]])
    (job / FINISHED).write_text(f'{{"seconds": {values[0]}}}')


@pytest.fixture
def runs(tmp_path):
    for run in ("first", "second"):
        for seed in range(2):
            finish(tmp_path / run / f"seed{seed}" / "score", seed)
            (tmp_path / run / f"seed{seed}" / "train").mkdir()
            (tmp_path / run / f"seed{seed}" / "train" / FINISHED).write_text(run)
    return tmp_path / "first", tmp_path / "second"


def test_runs_that_found_the_same_are_equal_whatever_they_took(runs, capsys):
    (runs[1] / "seed0" / "score" / FINISHED).write_text('{"seconds": 7}')
    found = compare(*runs)
    assert found.jobs == ("seed0/score", "seed1/score") and found.files == 4 and not found.different + found.only_one
    assert main(["--out", str(runs[0]), "--compare-with", str(runs[1])]) == 0
    assert "2 scoring jobs finished in both, 4 of their 4 files equal\n" == capsys.readouterr().out


def test_one_last_digit_of_one_clip_is_named(runs, capsys):
    finish(runs[1] / "seed1" / "score", 1, error=1e-15)
    assert main(["--out", str(runs[0]), "--compare-with", str(runs[1])]) == 1
    assert "differs: seed1/score/scores/toy-ours.json" in capsys.readouterr().out


def test_a_file_that_one_run_lacks_differs_and_an_unfinished_job_is_left_out(runs):
    (runs[1] / "seed0" / "score" / "tables" / "toy.json").unlink()
    (runs[0] / "seed1" / "score" / FINISHED).unlink()
    found = compare(*runs)
    assert found.different == ("seed0/score/tables/toy.json",) and found.only_one == ("seed1/score",)


def test_runs_without_a_common_job_are_refused(runs, capsys):
    shutil.rmtree(runs[1] / "seed0")
    shutil.rmtree(runs[1] / "seed1")
    with pytest.raises(UserError, match="no job in common"):
        compare(*runs)
    assert main(["--out", str(runs[0]), "--compare-with", str(runs[1])]) == 2
    assert capsys.readouterr().err.startswith("error: ")
