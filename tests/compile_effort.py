"""How much effort XLA's compiler for CPUs spends in tests, as values of XLA_FLAGS.

The first flag has XLA read the variable anew for every program, so that it can change within a process; each value then has to
name every flag of the other. XLA ends a process that names a flag which it does not know.
"""

import importlib.metadata

_KNOWS_FUSION_EMITTERS = tuple(map(int, importlib.metadata.version("jaxlib").split(".")[:2])) < (0, 11)


def _flags(optimisation_level: int, *, expensive_passes: bool) -> str:
    flags = {
        "xla_flags_reset": True,
        "xla_backend_optimization_level": optimisation_level,
        "xla_llvm_disable_expensive_passes": not expensive_passes,
    }
    if _KNOWS_FUSION_EMITTERS:
        flags["xla_cpu_use_fusion_emitters"] = expensive_passes
    return " ".join(f"--{name}={str(value).lower()}" for name, value in flags.items())


QUICK = _flags(0, expensive_passes=False)
"""Most tests compile much and compute little."""
FULL = _flags(3, expensive_passes=True)
"""XLA's defaults."""
