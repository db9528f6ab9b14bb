"""The public function: checks the arguments, splits the work over a mesh, and calls an implementation."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, PartitionSpec

from kernels.selective_scan import associative, recompute, reference, split
from kernels.selective_scan.arguments import ScanArgs, ScanConfig, ScanOptions, balanced_chunk, step_flags

IMPLEMENTATIONS = ("reference", "associative", "chunked", "pallas_gpu", "pallas_tpu")
"""Names that `implementation` accepts beside None."""

DEFAULT_CHUNK = 64
CHANNEL_AXIS_NAMES = frozenset({"model", "tensor", "tp"})


def selective_scan(
    u,
    delta,
    A,
    B,
    C,
    D=None,
    z=None,
    delta_bias=None,
    *,
    delta_softplus: bool = False,
    initial_state=None,
    mask=None,
    reset=None,
    reverse: bool = False,
    return_final_state: bool = False,
    implementation: str | None = None,
    sequence_axis: str | None = None,
    config: ScanConfig | None = None,
):
    """Selective scan (Mamba, arXiv 2312.00752, S6). In JAX, for one example and float32:

        delta = softplus(delta + delta_bias)                      # if delta_softplus
        h = exp(delta[t, :, None] * A) * h + (delta[t] * u[t])[:, None] * B[t]      # t = 0 .. L-1
        y[t] = h @ C[t] + D * u[t]
        y[t] = y[t] * silu(z[t])

    State and arithmetic are float32 whatever the inputs are (float64 if an input is float64).

    Args:
      u, delta: [B, L, E], float32, bfloat16, float16 or float64.
      A: [E, N], negative for a stable scan. B, C: [B, L, N].
      D, delta_bias: [E] or None. z: [B, L, E] or None, the gate.
      delta_softplus: delta passes softplus after the bias is added.
      initial_state: [B, E, N] or None (zeros). Enters before step 0; in reverse before step L-1.
      mask: bool [B, L], False = padding: the state passes unchanged and y = 0. What lies there has to be finite.
      reset: bool [B, L], True where a new sequence starts (packed batches): nothing flows from t-1 to t (reverse: from
        t to t-1). Where the scan starts, a reset discards initial_state. A reset on a padded step still cuts.
      reverse: scan from L-1 down to 0; the final state is then the one after step 0.
      return_final_state: also return the final state.
      implementation: None takes the best for the platform that the program is lowered for. A name (see IMPLEMENTATIONS)
        takes that one, and raises if it cannot run.
      sequence_axis: name of a manual mesh axis (inside `shard_map` or `pmap`) over which L is split: device i holds the i-th
        piece of every step-wise array. `initial_state` enters the whole, and the final state is that of the whole, on every
        device. A reset on a piece's first step cuts it off from the piece before; in reverse a reset on the first step of a
        piece would have to be seen by the piece before, so `reset` with `reverse` and a sequence axis is refused.
      config: `ScanConfig`; tuning only.

    Returns:
      y [B, L, E] in u.dtype, or (y, final_state [B, E, N] float32). Differentiable in every float argument, in reverse
      mode (`jax.grad`, `jax.vjp`) under jit, vmap, remat, pmap and `shard_map(..., check_vma=False)`, on meshes of Auto axes;
      "reference" and "associative" also with check_vma and in forward mode, "reference" with Explicit axes.

    Raises:
      ValueError, TypeError: a shape, dtype or name that does not fit, with the argument's name and what was expected.
    """
    _check(u, delta, A, B, C, D, z, delta_bias, initial_state, mask, reset)
    if implementation is not None and implementation not in IMPLEMENTATIONS:
        raise ValueError(f"selective_scan: implementation {implementation!r} is none of {', '.join(IMPLEMENTATIONS)}")
    config = config or ScanConfig()
    floats = [x for x in (u, delta, A, B, C, D, z, delta_bias, initial_state) if x is not None]
    dtype = jnp.float64 if any(x.dtype == jnp.float64 for x in floats) else jnp.float32

    def cast(x):
        return None if x is None else jnp.asarray(x).astype(dtype)

    batch, length, channels = u.shape
    if initial_state is None:
        initial_state = jnp.zeros((batch, channels, A.shape[1]), dtype)
    valid, keep = step_flags(mask, reset, reverse, dtype)
    args = ScanArgs(
        jnp.asarray(u), jnp.asarray(delta), cast(A), jnp.asarray(B), jnp.asarray(C), cast(D),
        None if z is None else jnp.asarray(z), cast(delta_bias), cast(initial_state), valid, keep,
    )  # fmt: skip
    options = ScanOptions(delta_softplus, reverse, balanced_chunk(length, config.chunk or DEFAULT_CHUNK), config)
    if implementation is not None:
        reason = recompute.unsupported(args, options, implementation)
        if reason is not None:
            raise ValueError(f"selective_scan: implementation {implementation!r} does not support {reason}")
    if sequence_axis is not None and reverse and reset is not None:
        raise ValueError(
            "selective_scan: reset with reverse=True and a sequence_axis is not supported; flip the inputs instead"
        )
    if args.u.size == 0:  # no step, example or channel: nothing is computed, and the state is empty or passes
        y, final = args.u, args.initial_state
    elif sequence_axis is not None:
        run = functools.partial(_run, options=options, implementation=implementation)
        y, final = split.over_devices(run, args, options, sequence_axis)
    else:
        y, final = _sharded(args, options, implementation)
    return (y, final) if return_final_state else y


def _run(args: ScanArgs, options: ScanOptions, implementation: str | None):
    pieces = min(options.config.time_splits or 1, args.u.shape[1])
    if pieces > 1:
        config = dataclasses.replace(options.config, time_splits=None)
        length = -(-args.u.shape[1] // pieces)
        options = dataclasses.replace(options, config=config, chunk=balanced_chunk(length, options.chunk))
        run = functools.partial(_run, options=options, implementation=implementation)
        return split.split_in_time(run, args, options, pieces)
    if implementation == "reference":
        return reference.scan(args, options)
    if implementation == "associative":
        return associative.scan(args, options)
    return recompute.scan(args, options, implementation)


def _sharded(args: ScanArgs, options: ScanOptions, implementation: str | None):
    """Wraps the call in shard_map where XLA would otherwise partition it.

    XLA cannot partition a Pallas call, and it gathers the batch of a loop over the batch. Under `jax.set_mesh` with Auto
    axes the op therefore splits itself: B over the batch axes, E over the channel axes, as far as they divide. Manual
    axes (pmap, shard_map) need nothing, and without a mesh there is nothing to split.
    """
    mesh = jax.sharding.get_abstract_mesh()
    auto = [n for n, t in zip(mesh.axis_names, mesh.axis_types, strict=True) if t == AxisType.Auto] if mesh.axis_names else []
    run = functools.partial(_run, options=options, implementation=implementation)
    if not auto:
        return run(args)
    config = options.config
    channel_names = CHANNEL_AXIS_NAMES if config.channel_axes is None else frozenset(config.channel_axes)
    channel_axes = _dividing(mesh, [n for n in auto if n in channel_names], args.u.shape[2])
    batch_names = [n for n in auto if n not in channel_names] if config.batch_axes is None else config.batch_axes
    batch_axes = _dividing(mesh, [n for n in auto if n in batch_names], args.u.shape[0])
    b, e = batch_axes or None, channel_axes or None
    P = PartitionSpec
    specs = ScanArgs(
        u=P(b, None, e), delta=P(b, None, e), A=P(e), B=P(b), C=P(b), D=P(e), z=P(b, None, e), delta_bias=P(e),
        initial_state=P(b, e), valid=P(b), keep=P(b),
    )  # fmt: skip
    specs = ScanArgs(*(None if x is None else spec for x, spec in zip(args, specs, strict=True)))
    return jax.shard_map(run, in_specs=(specs,), out_specs=(P(b, None, e), P(b, e)), axis_names=set(auto), check_vma=False)(
        args
    )


def _dividing(mesh, names, size: int) -> tuple[str, ...]:
    """The axes, in order, that divide what is left of `size`; one that does not is passed over."""
    chosen, product = [], 1
    for name in names:
        if size % (product * mesh.shape[name]) == 0:
            chosen.append(name)
            product *= mesh.shape[name]
    return tuple(chosen)


def _check(u, delta, A, B, C, D, z, delta_bias, initial_state, mask, reset) -> None:
    def fail(name, x, expected):
        raise ValueError(f"selective_scan: {name} has shape {tuple(x.shape)}, expected {expected}")

    required = {"u": u, "delta": delta, "A": A, "B": B, "C": C}
    optional = {"D": D, "z": z, "delta_bias": delta_bias, "initial_state": initial_state, "mask": mask, "reset": reset}
    for name, x in (required | optional).items():
        if not hasattr(x, "shape") and not (x is None and name in optional):
            raise TypeError(f"selective_scan: {name} is {type(x).__name__}, expected an array")
    if len(u.shape) != 3:
        fail("u", u, "[B, L, E]")
    batch, length, channels = u.shape
    if len(A.shape) != 2 or A.shape[0] != channels or A.shape[1] == 0:
        fail("A", A, f"[E, N] with E = {channels} as in u {tuple(u.shape)}")
    size = A.shape[1]
    expected = (
        ("delta", delta, (batch, length, channels), "[B, L, E]"),
        ("B", B, (batch, length, size), "[B, L, N]"),
        ("C", C, (batch, length, size), "[B, L, N]"),
        ("D", D, (channels,), "[E]"),
        ("z", z, (batch, length, channels), "[B, L, E]"),
        ("delta_bias", delta_bias, (channels,), "[E]"),
        ("initial_state", initial_state, (batch, channels, size), "[B, E, N]"),
        ("mask", mask, (batch, length), "[B, L]"),
        ("reset", reset, (batch, length), "[B, L]"),
    )
    for name, x, shape, axes in expected:
        if x is not None and tuple(x.shape) != shape:
            fail(name, x, f"{axes} = {shape} for u {tuple(u.shape)} and A {tuple(A.shape)}")
    for name, x, _, _ in (("u", u, 0, 0), ("A", A, 0, 0), *expected[:7]):
        if x is not None and not jnp.issubdtype(x.dtype, jnp.floating):
            raise TypeError(f"selective_scan: {name} has dtype {x.dtype}, expected a real floating type")
    for name, x in (("mask", mask), ("reset", reset)):
        if x is not None and x.dtype != jnp.bool_:
            raise TypeError(f"selective_scan: {name} has dtype {x.dtype}, expected bool")
