"""How much effort XLA's compiler for CPUs spends in tests, as values of XLA_FLAGS.

The first flag has XLA read the variable anew for every program, so that it can change within a process; each value then has to
name every flag of the other.
"""

QUICK = (
    "--xla_flags_reset=true --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    " --xla_cpu_use_fusion_emitters=false"
)
"""Most tests compile much and compute little."""
FULL = (
    "--xla_flags_reset=true --xla_backend_optimization_level=3 --xla_llvm_disable_expensive_passes=false"
    " --xla_cpu_use_fusion_emitters=true"
)
"""XLA's defaults."""
