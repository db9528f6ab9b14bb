"""The readers of compiler output, on excerpts in the compilers' own forms, and the command line's refusals."""

import pytest

from kernels import aot

SCHEDULE = """
LB: loop body
     0   :  { %a = inlined }
   0x1   :  { %b = foo }
   0x2 LB: > { %c = foo } /* Start region 2 */
   0x3   : > { %d = sbr.rel (%p1_p2) target = $region6 }
   0x4 LB: >> { %e = foo } /* Start region 4 */
   0x5   :  {} /* End region 5 */
   0x6   : >> { %f = scmp.ge.s32.totalorder %s1_s2, 5 /* loop exit test */  ;;  %h = sbr.rel (!%p5_p6) target = $region4 }
   0x7   : >> { %g = foo }
   0x8 LB: >> { %e = foo } /* Start/End empty region 6 */
   0x9   : >> { %f = scmp.ge.s32 %s3_s4, 9 }
   0xa LB: >>> { %e = foo }
   0xb   : >>> { %f = scmp.ge.s32 %s5_s6, 4 /* loop exit test */  ;; %s = scmp.ge.s32 (%p7_p8), %s3_s4, 3 /* loop exit test */ }
   0xe PF: > { %h = foo }
   0xf   : > { %f = scmp.ge.s32.totalorder %s9_s9, 66 /* loop exit test */ }
  0x10   :  { %i = foo }
"""

ALLOCATIONS = """
  #allocation0 [shape = 'u32[]', space=smem, size = 0x4, offset = 0x4, fixed_abs, tag = 'smem constant']
  #allocation1 [shape = 'f32[32,512,128]{2,1,0:T(8,128)}', space=vmem, size = 0x800000, scoped, tag = 'scratch operand']
    #allocation6 [shape = 'u8[4194304]{0}', space=vmem, size = 0x400000, scoped, tag = 'input window allocation']
"""

PTXAS = """
ptxas info    : Compiling entry function 'scan_fwd' for 'sm_90a'
ptxas info    : Function properties for scan_fwd
    0 bytes stack frame, 8 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 79 registers, used 1 barriers, 16 bytes smem
"""


def test_innermost_loops_with_their_turns_and_what_lies_outside():
    # Two bundles of the grid's loop before the others, two behind, and three times the two of the middle loop's own. The jump
    # to region 6 passes over the first loop, that to region 4 turns round in it.
    assert aot.innermost_loops(SCHEDULE) == ([(5, 4, True), (12, 2, False)], 4 + 3 * 2, 64)


def test_a_grid_of_one_step_has_no_loop():
    inside = [line.replace(": >>", ": >") for line in SCHEDULE.splitlines() if ">>" in line]
    text = "\n".join(["  0x3   :  { %a = foo }", *inside, "  0x10   :  { %i = foo }"])
    assert aot.innermost_loops(text) == ([(5, 3, False), (12, 2, False)], 2 + 3 * 2, 1)


def test_turns_that_the_kernel_computes_are_refused():
    with pytest.raises(ValueError, match="number of turns"):
        aot.innermost_loops(SCHEDULE.replace("9 }", "%s7_s8 }").replace("66 /* loop exit test */", "%s7_s8"))


def test_the_table_has_a_line_per_problem_and_a_column_per_target():
    kernels = {"selective_scan_fwd": {"bundles": 38.04, "vector_memory_MiB": 3.0}}
    kernels["selective_scan_bwd"] = {"bundles": 150.4, "vector_memory_MiB": 2.0}
    row = {"spec": "demo", "mode": "backward", "argument_MiB": 1.0, "output_MiB": 2.0, "temporary_MiB": 4.0}
    row |= {"estimate_ms": 0.25, "bound_ms": 0.125, "kernels": kernels}
    rows = [row | {"target": t, "dtype": d} for t in ("v5e", "v6e") for d in ("float32", "bfloat16")]
    head, _, line = aot.tpu_table(rows)
    assert [c.strip() for c in head.split("|")[4:8]] == ["fwd: v5e", "fwd: v6e", "bwd: v5e", "bwd: v6e"]
    assert line == (
        "| `demo` | 3, 4 / 3, 4 | 3, 2 / 3, 2 | 38.0 / 38.0 | 38.0 / 38.0 | 150 / 150 | 150 / 150 | 0.25 (0.12) / 0.25 (0.12) |"
    )


def test_vector_memory_is_scratch_and_blocks():
    assert aot.vector_memory(ALLOCATIONS) == 0xC00000


def test_registers_and_spills_are_read():
    assert aot.parse_ptxas(PTXAS) == {"scan_fwd": {"registers": 79, "spill_bytes": 20, "shared_bytes": 16}}


@pytest.mark.parametrize(
    ("flags", "known"),
    [
        (["--target", "v2"], "v5e, v5p, v6e"),
        (["--modes", "foward"], "foward: choose some of forward, backward"),
        (["--dtypes", "float16"], "float16: choose some of float32, bfloat16"),
        (["--specs", "animator_two"], "no arg spec 'animator_two'"),
    ],
)
def test_mistakes_are_refused_with_what_is_known(flags, known, capsys, monkeypatch):
    monkeypatch.setattr(aot, "_prepare_environment", lambda gpu, dumps: None)
    assert aot.main(flags) == 2
    assert known in capsys.readouterr().err
