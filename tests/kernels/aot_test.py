"""The readers of compiler output, on excerpts in the compilers' own forms, and the command line's refusals."""

from kernels import aot

SCHEDULE = """
LB: loop body
     0   :  { %a = inlined }
   0x1   :  { %b = foo }
   0x2 LB: > { %c = foo }
   0x3   : > { %d = foo }
   0x4 LB: >> { %e = foo }
   0x5   :  {} /* End region 5 */
   0x6   : >> { %f = scmp.ge.s32.totalorder %s1_s2, 5 /* loop exit test */  ;;  %h = foo }
   0x7   : >> { %g = foo }
   0x8 LB: >> { %e = foo }
   0x9   : >> { %f = scmp.ge.s32 %s3_s4, 9 }
   0xa LB: >>> { %e = foo }
   0xb   : >>> { %f = scmp.ge.s32 %s5_s6, 4 /* loop exit test */  ;; %s = scmp.ge.s32 (%p7_p8), %s3_s4, 3 /* loop exit test */ }
   0xc LB: >> { %e = foo }
   0xd   : >> { %f = scmp.ge.s32.totalorder %s5_s6, %s7_s8 /* loop exit test */ }
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
    # Two bundles of the grid's loop before the others, two behind, and three times the two of the middle loop's own.
    assert aot.innermost_loops(SCHEDULE) == ([[5, 4], [12, 2], [None, 2]], 4 + 3 * 2)


def test_a_grid_of_one_step_has_no_loop():
    inside = [line.replace(": >>", ": >") for line in SCHEDULE.splitlines() if ">>" in line]
    assert aot.innermost_loops("\n".join(["  0x3   :  { %a = foo }", *inside, "  0x10   :  { %i = foo }"])) == (
        [[5, 3], [12, 2], [None, 2]],
        2 + 3 * 2,
    )


def test_vector_memory_is_scratch_and_blocks():
    assert aot.vector_memory(ALLOCATIONS) == 0xC00000


def test_registers_and_spills_are_read():
    assert aot.parse_ptxas(PTXAS) == {"scan_fwd": {"registers": 79, "spill_bytes": 20, "shared_bytes": 16}}


def test_an_unknown_target_is_refused_with_the_known_ones(capsys):
    assert aot.main(["--target", "v2"]) == 2
    assert "v5e, v5p, v6e" in capsys.readouterr().err
