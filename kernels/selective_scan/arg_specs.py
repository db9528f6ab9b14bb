"""Named problems, shared by the contract tests, the benchmark and the ahead-of-time compiler."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True)
class ArgSpec:
    """One problem: sizes, dtype of u, delta, z, B and C, and which parts are present."""

    name: str
    batch: int
    length: int
    channels: int
    state: int
    dtype: str = "float32"
    softplus: bool = True
    D: bool = True
    z: bool = True
    bias: bool = True
    initial_state: bool = False
    mask: bool = False
    reset: bool = False
    reverse: bool = False

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(B, L, E, N)."""
        return self.batch, self.length, self.channels, self.state

    def abstract(self, sharding=None) -> tuple[dict, dict]:
        """(arrays, options) for `selective_scan(**arrays, **options)`, the arrays as ShapeDtypeStructs."""
        b, l, e, n = self.shape  # noqa: E741
        low, f32 = jnp.dtype(self.dtype), jnp.float32
        shapes = {
            "u": ((b, l, e), low),
            "delta": ((b, l, e), low),
            "A": ((e, n), f32),
            "B": ((b, l, n), low),
            "C": ((b, l, n), low),
        }
        if self.D:
            shapes["D"] = ((e,), f32)
        if self.z:
            shapes["z"] = ((b, l, e), low)
        if self.bias:
            shapes["delta_bias"] = ((e,), f32)
        if self.initial_state:
            shapes["initial_state"] = ((b, e, n), f32)
        if self.mask:
            shapes["mask"] = ((b, l), jnp.bool_)
        if self.reset:
            shapes["reset"] = ((b, l), jnp.bool_)
        arrays = {k: jax.ShapeDtypeStruct(s, d, sharding=sharding) for k, (s, d) in shapes.items()}
        return arrays, {"delta_softplus": self.softplus, "reverse": self.reverse}

    def concrete(self, seed: int = 0) -> tuple[dict, dict]:
        """(arrays, options) with the values that Mamba starts from: A = -1 .. -N, softplus(delta + bias) in [0.001, 0.1].

        The mask leaves 3/4 of each example at least; resets come every 37 steps on average.
        """
        rng = np.random.default_rng(seed)
        arrays, options = self.abstract()
        made = {}
        for name, x in arrays.items():
            value = rng.standard_normal(x.shape) if x.dtype != jnp.bool_ else None
            if name == "A":
                value = -np.broadcast_to(np.arange(1, self.state + 1), x.shape) * np.exp(0.1 * value)
            elif name in ("delta", "delta_bias"):
                step = np.exp(rng.uniform(np.log(1e-3), np.log(1e-1), x.shape))
                if name == "delta" and self.bias:
                    value = 0.5 * value
                elif name == "delta" and not self.softplus:
                    value = step
                elif self.softplus:
                    value = np.log(np.expm1(step))
                else:
                    value = step
            elif name == "mask":
                lengths = rng.integers(-(-3 * self.length // 4), self.length + 1, self.batch)
                value = np.arange(self.length) < lengths[:, None]
            elif name == "reset":
                value = rng.random(x.shape) < 1 / 37
            made[name] = jnp.asarray(value, x.dtype)
        if not self.softplus and self.bias:
            made["delta"] = jnp.abs(made["delta"])  # a negative step would let the state grow without bound
        return made, options


CONTRACT = (
    ArgSpec("tiny", 2, 12, 8, 4),
    ArgSpec("plain", 2, 33, 24, 16, softplus=False, D=False, z=False, bias=False),
    ArgSpec("one_step", 3, 1, 8, 4, initial_state=True),
    ArgSpec("odd", 3, 67, 20, 5, initial_state=True, mask=True, reset=True),
    ArgSpec("odd_reverse", 3, 67, 20, 5, initial_state=True, mask=True, reset=True, reverse=True),
    ArgSpec("long", 1, 299, 16, 8, reset=True, z=False),
    ArgSpec("bfloat16", 2, 130, 32, 16, dtype="bfloat16", initial_state=True, mask=True),
    ArgSpec("tile", 2, 70, 256, 16, initial_state=True),
)
"""Small problems with every feature, for tests against float64."""

BENCHMARK = (
    ArgSpec("demo", 16, 200, 192, 8),
    ArgSpec("encoder", 16, 200, 256, 16),
    ArgSpec("cpu", 2, 1024, 512, 16),
    ArgSpec("animator_batch", 16, 300, 1024, 16),
    ArgSpec("animator_one", 1, 600, 1024, 16),
    ArgSpec("diarizer", 16, 500, 1536, 16),
    ArgSpec("study", 8, 2048, 2048, 16),
)
"""The sizes that the models use, and the one that kernels are compared at."""


def named(name: str) -> ArgSpec:
    """The spec of that name. Raises KeyError with the known names."""
    for spec in (*CONTRACT, *BENCHMARK):
        if spec.name == name:
            return spec
    raise KeyError(f"no arg spec {name!r}; known: {', '.join(s.name for s in (*CONTRACT, *BENCHMARK))}")
