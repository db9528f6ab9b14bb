"""The readers of compiler output, on excerpts in the compilers' own forms, and the command line's refusals."""

from kernels import aot

SCHEDULE = """
LB: loop body
     0   :  { %a = inlined }
   0x1   :  { %b = foo }
   0x2 LB: > { %c = foo }
   0x3   : > { %d = foo }
   0x4 LB: >> { %e = foo }
   0x5   : >> { %f = foo }
   0x6   : >> { %g = foo }
   0x7 PF: > { %h = foo }
   0x8   :  { %i = foo }
"""

PTXAS = """
ptxas info    : Compiling entry function 'scan_fwd' for 'sm_90a'
ptxas info    : Function properties for scan_fwd
    0 bytes stack frame, 8 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 79 registers, used 1 barriers, 16 bytes smem
"""


def test_only_the_innermost_loop_is_counted():
    assert aot.innermost_loops(SCHEDULE) == [3]


def test_registers_and_spills_are_read():
    assert aot.parse_ptxas(PTXAS) == {"scan_fwd": {"registers": 79, "spill_bytes": 20, "shared_bytes": 16}}


def test_an_unknown_target_is_refused_with_the_known_ones(capsys):
    assert aot.main(["--target", "v2"]) == 2
    assert "v5e, v5p, v6e" in capsys.readouterr().err
