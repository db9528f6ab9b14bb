"""The command lines of train.py and evaluate.py: a mistake in a flag is one line that names it, and exit code 2."""

import subprocess
import sys

import pytest

DEMO = "--config=configs/demo.py"


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (["evaluate.py", f"{DEMO}", "--config.pipelin.seed=3"], 'did you mean "pipeline"'),
        (["evaluate.py", f"{DEMO}", "--config.optim.learning_rte=0.1"], 'did you mean "learning_rate"'),
        (["evaluate.py", f"{DEMO}", "--config.num_steps=many"], "--config.num_steps=many: invalid literal for int"),
        (["evaluate.py", f"{DEMO}:bogus"], "demo.py:bogus: unknown variant 'bogus': expected"),
        (["evaluate.py", "--config=configs/nope.py", "--config.seed=1"], "no such file or directory: 'configs/nope.py'"),
        (["evaluate.py", "--max_clips=0"], "--max_clips=0"),
        (["evaluate.py", "--baseline_clips=-1"], "--baseline_clips=-1"),
        (["evaluate.py", "--workdri=x"], "'workdri'. did you mean: workdir"),
        (["evaluate.py", "extra"], "unexpected argument 'extra'"),
        (["train.py", DEMO], "--workdir"),
        (["train.py", f"{DEMO}:smoke", "--workdir={tmp}", "--num_processes=2"], "give --coordinator=host:port"),
        (["train.py", f"{DEMO}:smoke", "--workdir={tmp}", "--process_id=0"], "give --coordinator=host:port"),
        (["train.py", f"{DEMO}:smoke", "--workdir={tmp}", "--config.pipeline.max_seconds=6"], "config: bucket_seconds"),
    ],
)
def test_a_mistake_in_a_flag_is_one_line(command, expected, tmp_path):
    done = subprocess.run([sys.executable, *(part.format(tmp=tmp_path) for part in command)], capture_output=True, text=True)
    lines = done.stderr.strip().splitlines()
    assert done.returncode == 2 and lines[-1].startswith("error: ") and expected in lines[-1].lower(), done.stderr[-2000:]
    assert "Traceback" not in done.stderr
