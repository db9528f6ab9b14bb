import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sedtalker_jax.errors import UserError
from sedtalker_jax.evaluation.claims import runner
from sedtalker_jax.evaluation.claims.jobs import FINISHED, Job, in_order
from sedtalker_jax.evaluation.claims.runner import LOG, Runner, commit, perform, select
from sedtalker_jax.evaluation.claims.scores import load_scores
from sedtalker_jax.evaluation.claims.settings import Settings
from tests.evaluation.claims.toy_jobs import STEPS, toy_jobs

ROOT = Path(__file__).resolve().parents[3]
TOY = [sys.executable, "-m", "tests.evaluation.claims.toy_jobs"]


def start(out, *flags):
    return subprocess.Popen(
        [*TOY, "--out", str(out), *flags], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def run(out, *flags):
    process = start(out, *flags)
    errors = process.communicate(timeout=300)[1]
    return process.returncode, errors


def results(out):
    return [(s.seed, s.arm, s.clips, s.voices, s.measures["error"].tolist()) for own in load_scores(out).values() for s in own]


def test_seeds_come_one_after_the_other_and_requirements_first():
    names = [job.name for job in select(toy_jobs())]
    assert [name[:5] for name in names] == ["seed0"] * 5 + ["seed1"] * 5
    for job in toy_jobs():
        assert all(names.index(required) < names.index(job.name) for required in job.requires)


def test_only_selects_parts_of_names_with_what_they_require():
    assert {job.name for job in select(toy_jobs(), ["score"])} == {
        f"seed{seed}/{name}" for seed in (0, 1) for name in ("score", "train/ours", "train/other")
    }
    assert [job.name for job in select(toy_jobs(), ["seed1/train/o*r"])] == ["seed1/train/other"]
    assert len(select(toy_jobs(), ["seed0"])) == 5
    with pytest.raises(UserError, match="no job is called trai:"):
        select(toy_jobs(), ["trai"])


def test_jobs_that_require_one_another_or_nothing_are_refused():
    with pytest.raises(ValueError, match="requires itself"):
        in_order([Job("seed0/a", print, ("seed0/b",)), Job("seed0/b", print, ("seed0/a",))])
    with pytest.raises(ValueError, match="does not exist"):
        in_order([Job("seed0/a", print, ("seed0/b",))])


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    out = tmp_path_factory.mktemp("toy")
    code, errors = run(out)
    return out, code, errors


def test_a_failing_job_names_its_log_and_keeps_only_its_dependants_from_running(uninterrupted):
    out, code, errors = uninterrupted
    assert code == 2
    (line,) = [line for line in errors.splitlines() if line.startswith("failed: seed0/broken")]
    assert "always fails" in line and str(out / "seed0/broken" / LOG) in line
    done = {str(path.parent.relative_to(out)) for path in out.rglob(FINISHED)}
    assert done == {f"seed{seed}/{name}" for seed in (0, 1) for name in ("score", "train/ours", "train/other")}
    assert not (out / "seed0/needs-broken").exists()
    assert "0 of 10 jobs done" in errors and "left: seed0/train/ours" in errors


def test_finished_jobs_leave_time_commit_and_version(uninterrupted):
    left = json.loads((uninterrupted[0] / "seed0/train/ours" / FINISHED).read_text())
    assert left["seconds"] >= 0.02 * STEPS
    assert left["commit"] and left["jax"]


def test_minutes_are_those_of_all_attempts_and_the_commit_that_of_the_code_at_work(tmp_path, monkeypatch):
    def killed(place):
        time.sleep(0.3)
        monkeypatch.setattr(runner, "commit", lambda: "made meanwhile")
        raise UserError("killed")

    monkeypatch.setattr(runner, "SPENT_EVERY_S", 0.01)
    job = Job("seed0/train", killed)
    with pytest.raises(UserError):
        perform(job, tmp_path)
    monkeypatch.setattr(runner, "commit", lambda: "at the start")
    (tmp_path / "seed0/train/seconds.txt").write_text("100.5")
    with pytest.raises(UserError):
        perform(job, tmp_path)
    monkeypatch.setattr(runner, "commit", lambda: "at the start")
    perform(Job("seed0/train", lambda place: monkeypatch.setattr(runner, "commit", lambda: "made meanwhile")), tmp_path)
    left = json.loads((tmp_path / "seed0/train" / FINISHED).read_text())
    assert 100.8 <= left["seconds"] < 102 and left["commit"] == "at the start"


def test_killed_anywhere_and_started_again_it_arrives_at_the_same_results(uninterrupted, tmp_path):
    kills = 0
    for delay in (1.0, 2.0):
        process = start(tmp_path, "--workers", "2")
        time.sleep(delay)
        if process.poll() is None:
            process.kill()
            kills += 1
        process.wait()
        process.stderr.close()
    assert kills
    run(tmp_path)
    assert results(tmp_path) == results(uninterrupted[0])
    # No step was taken twice at once: a job dies with its runner. A step may be repeated where the kill fell between the two
    # files that it writes.
    steps = (tmp_path / "seed0" / "order.txt").read_text().splitlines()
    assert set(steps) == {f"train/{arm} {step + 1}" for arm in ("ours", "other") for step in range(STEPS)}


def test_a_job_dies_with_its_runner(tmp_path):
    (tmp_path / "sleep.py").write_text(
        "import sys, time\nfrom pathlib import Path\n"
        "from sedtalker_jax.evaluation.claims.jobs import Job\n"
        "from sedtalker_jax.evaluation.claims.runner import Runner, end_with_parent\n"
        "if '--job' in sys.argv:\n"
        "    import os; end_with_parent(); Path(sys.argv[2], 'pid').write_text(str(os.getpid())); time.sleep(600)\n"
        "else:\n"
        "    Runner(Path(sys.argv[1]), [Job('seed0/sleep', print)], (sys.executable, __file__)).run()\n"
    )
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "sleep.py"), str(tmp_path)],
        stderr=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    deadline = time.monotonic() + 30
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    child = int((tmp_path / "pid").read_text())
    process.kill()
    process.wait()
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{child}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return
        if state == "Z":
            return
        time.sleep(0.05)
    raise AssertionError("the job outlived its runner")


def test_what_depends_on_a_job_that_is_made_again_is_made_again_from_nothing(uninterrupted, tmp_path):
    run(tmp_path, "--only", "seed0/score")
    before = results(tmp_path)
    (tmp_path / "seed0/train/ours" / FINISHED).unlink()
    (tmp_path / "seed0/score/stale.txt").write_text("old")
    run(tmp_path, "--only", "seed0/score")
    assert results(tmp_path) == before
    assert not (tmp_path / "seed0/score/stale.txt").exists()
    assert (tmp_path / "seed0/score" / FINISHED).exists()


def test_what_was_half_made_of_a_job_that_is_made_again_is_made_from_nothing(tmp_path):
    half = tmp_path / "seed0/score"
    (half / "checkpoints").mkdir(parents=True)
    (half / LOG).write_text("stopped")
    run(tmp_path, "--only", "seed0/score")
    assert (half / FINISHED).exists() and not (half / "checkpoints").exists()


def test_a_world_that_is_added_later_is_scored(tmp_path):
    def unfinished(*inputs):
        job = Job("seed0/score", print, inputs=inputs)
        return [job.name for job in Runner(tmp_path, [job], ())._unfinished()]

    perform(Job("seed0/score", lambda place: None), tmp_path)
    assert unfinished() == []
    assert unfinished("world b") == ["seed0/score"]
    assert not (tmp_path / "seed0/score" / FINISHED).exists()
    perform(Job("seed0/score", lambda place: None, inputs=("world b",)), tmp_path)
    assert unfinished("world b") == []


def test_a_spent_budget_starts_nothing_more_and_a_later_run_goes_on(tmp_path):
    code, errors = run(tmp_path, "--only", "seed0/train", "--budget-s", "0")
    assert code == 0 and "does not fit" in errors
    assert not list(tmp_path.rglob(FINISHED))
    run(tmp_path, "--only", "seed0/train")
    assert len(list(tmp_path.rglob(FINISHED))) == 2


def test_two_runs_do_not_share_a_directory(tmp_path):
    with Runner(tmp_path, [], ())._lock(), pytest.raises(UserError, match="another run is at work"):
        Runner(tmp_path, [], ()).run()


@pytest.fixture
def world(tmp_path):
    for name, digest in (("world", "a1"), ("other", "b2"), ("third", "c3")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text(json.dumps({"world_hash": digest}))
    return tmp_path


def test_results_of_other_settings_are_refused_by_name(world):
    settings = Settings(world / "out", str(world / "world"), other_data="")
    settings.store()
    Settings(world / "out", str(world / "world"), other_data="", seeds=(0, 1, 2, 3, 4, 5, 6)).store()
    assert Settings.load(world / "out", seeds=settings.seeds) == settings
    with pytest.raises(UserError, match=r"holds results of smoke False, not True: choose another --out"):
        Settings(world / "out", str(world / "world"), other_data="", smoke=True).store()
    with pytest.raises(UserError, match="world_hash 'a1', not 'c3'"):
        Settings(world / "out", str(world / "third"), other_data="").store()


def test_another_world_can_be_added_but_not_exchanged(world):
    Settings(world / "out", str(world / "world"), other_data="").store()
    added = Settings(world / "out", str(world / "world"), other_data=str(world / "other"))
    added.store()
    assert Settings.load(world / "out", seeds=added.seeds) == added
    with pytest.raises(UserError, match="other_world_hash"):
        Settings(world / "out", str(world / "world"), other_data=str(world / "third")).store()


def test_missing_records_name_the_command_that_makes_them(world):
    with pytest.raises(UserError, match="world_b_rules.toml --subset claims --out .*nowhere"):
        Settings(world / "out", str(world / "world"), other_data=str(world / "nowhere")).store()


def test_the_command_says_what_is_wrong_in_one_line(tmp_path):
    command = [sys.executable, "-m", "sedtalker_jax.evaluation.claims", "--data", str(tmp_path), "--out", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(f"error: {tmp_path}: no such data set; make it with: python -m")


def test_results_need_no_git(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert commit() == ""
