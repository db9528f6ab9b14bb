"""The autotuner times what differs, fastest first."""

import jax
import pytest

from kernels.selective_scan import ScanConfig, autotune
from kernels.selective_scan.arg_specs import ArgSpec, named


def test_candidates_fit_the_length_and_differ():
    assert autotune.candidates(12) == [ScanConfig(chunk=32, time_splits=1)]
    found = autotune.candidates(600)
    assert len(set(found)) == len(found) == 11  # all but 128 steps in eight pieces
    assert all(c.chunk * c.time_splits <= 600 for c in found)


def test_refinements_keep_the_chunk_and_know_the_implementation():
    best = ScanConfig(chunk=64, time_splits=2)
    for implementation, tiles in (("chunked", {None}), ("pallas_gpu", {None}), ("pallas_tpu", {None, 256, 512})):
        found = autotune.refinements(best, implementation, 1024)
        assert len(set(found)) == len(found)
        assert {c.channel_tile for c in found} == tiles
        assert {(c.chunk, c.time_splits) for c in found} == {(64, 2)}
        assert {c.unroll for c in found} == set(autotune.UNROLLS)


def test_the_fastest_comes_first(monkeypatch):
    monkeypatch.setattr(autotune, "CHUNKS", (8, 16))
    monkeypatch.setattr(autotune, "TIME_SPLITS", (1,))
    monkeypatch.setattr(autotune, "UNROLLS", (2,))
    found = autotune.autotune(named("tiny"), "chunked", backward=False, rounds=2)
    assert {config.chunk for _, config in found} == {8}
    found = autotune.autotune(ArgSpec("short", 1, 20, 4, 2), "chunked", backward=False, rounds=2)
    assert {config.chunk for _, config in found} == {8, 16}
    # The faster chunk was timed once more with two steps written out.
    assert [config.unroll for _, config in found].count(2) == 1
    assert 0 < found[0][0] <= found[1][0] <= found[2][0]
    assert autotune.described(ScanConfig(chunk=8, unroll=2)) == {"chunk": 8, "unroll": 2}


def test_a_candidate_that_the_device_refuses_is_left_out(monkeypatch):
    monkeypatch.setattr(autotune, "CHUNKS", (8, 16))
    monkeypatch.setattr(autotune, "TIME_SPLITS", (1,))
    monkeypatch.setattr(autotune, "UNROLLS", (2,))
    scan = autotune.selective_scan

    def refusing(*args, config, **options):
        if config.chunk == 16:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")
        return scan(*args, config=config, **options)

    monkeypatch.setattr(autotune, "selective_scan", refusing)
    found = autotune.autotune(ArgSpec("short", 1, 20, 4, 2), "chunked", backward=False, rounds=1)
    assert {config.chunk for _, config in found} == {8}


def test_no_candidate_that_runs_is_an_error():
    with pytest.raises(ValueError, match="no configuration of pallas_tpu runs large"):
        autotune.autotune(ArgSpec("large", 1, 8, 8, 80), "pallas_tpu")
