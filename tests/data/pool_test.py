import os
import signal
import subprocess
import sys
import time

import pytest

from sedtalker_jax.data.pool import WorkerPool
from sedtalker_jax.errors import UserError


def make(number):
    if number < 0:
        raise UserError("cannot make it")
    return number


def add(held, number):
    return held + number, os.environ["OMP_NUM_THREADS"]


def test_results_come_in_order_from_single_threaded_workers():
    before = os.environ.get("OMP_NUM_THREADS")
    with WorkerPool(2, make, (100,)) as pool:
        assert list(pool.map(add, [(i,) for i in range(25)], chunk=2)) == [(100 + i, "1") for i in range(25)]
        assert list(pool.map(add, [])) == []
    assert os.environ.get("OMP_NUM_THREADS") == before


def test_what_can_not_be_made_is_said_with_the_first_job():
    with WorkerPool(2, make, (-1,)) as pool, pytest.raises(UserError, match="cannot make it"):
        list(pool.map(add, [(1,)]))


KILLED = """
import os, sys, time
from sedtalker_jax.data.pool import WorkerPool
from tests.data.pool_test import make, process_number
if __name__ == "__main__":
    with WorkerPool(2, make, (0,)) as pool:
        print(*set(pool.map(process_number, [()] * 40, chunk=1)), flush=True)
        time.sleep(60)
"""


def process_number(_):
    time.sleep(0.01)
    return os.getpid()


def alive(process):
    try:
        with open(f"/proc/{process}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="processes are looked up in /proc")
def test_workers_do_not_outlive_a_parent_that_is_killed(tmp_path):
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    parent = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=environment)
    workers = [int(number) for number in parent.stdout.readline().split()]
    assert workers and all(map(alive, workers))
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 30
    while any(map(alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(alive, workers))
