"""The differentiable scan round the implementations that recompute: one custom VJP, the implementation chosen inside it.

The platform is the one that the program is lowered for, so a TPU program compiled on a CPU host holds the TPU kernel. The
choice lies inside the forward and the backward function, not round them: all implementations save the same residuals (the
arguments and the states entering each chunk), so a program never carries residuals of an implementation that it does not
run. It is a primitive with a lowering per platform: `jax.lax.platform_dependent` would trace every implementation for every
program, and the TPU kernels, whose loops are written out, take seconds.
"""

from __future__ import annotations

import functools
import importlib

import jax
import jax.numpy as jnp
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import mlir

from kernels.selective_scan import chunked
from kernels.selective_scan.arguments import SHARED, ScanArgs, ScanOptions

_PALLAS = ("pallas_gpu", "pallas_tpu")
# What the default picks beside `chunked`. pallas_gpu is not here: it compiles for Hopper and agrees under the interpreter,
# but has not run on a GPU yet, and a default must have. It is there by name.
_BEST = {"tpu": "pallas_tpu"}


def unsupported(args: ScanArgs, options: ScanOptions, implementation: str) -> str | None:
    """Why the named implementation cannot run this problem, or None."""
    if implementation not in _PALLAS:
        return None
    try:
        return _kernel(implementation).unsupported(args, options)
    except ImportError as error:
        return f"this installation ({error})"


def _kernel(name: str):
    """The module of a Pallas implementation. Imported on use: the GPU back end of Pallas needs absl-py, which jax does not."""
    return importlib.import_module(f"kernels.selective_scan.{name}")


def _run_pass(platform: str | None, args: ScanArgs, arrays, options: ScanOptions, pass_name: str, takes_best: bool):
    """`forward` or `backward` of what the platform runs: its best implementation if that may be taken, otherwise `chunked`."""
    best = _BEST.get(platform) if takes_best else None
    if best is not None and unsupported(args, options, best) is None:
        return getattr(_kernel(best), pass_name)(args, *arrays, options)
    return getattr(chunked, pass_name)(args, *arrays, options, loop_over_batch=platform == "cpu")


_scan_pass = Primitive("selective_scan_pass")
_scan_pass.multiple_results = True


@_scan_pass.def_abstract_eval
def _(*_, outs, **__):
    return [ShapedArray(shape, dtype) for shape, dtype in outs]


def _flat_pass(platform: str | None):
    def run(*flat, tree, outs, **choice):
        del outs
        args, *arrays = tree.unflatten(flat)
        return jax.tree.leaves(_run_pass(platform, args, arrays, **choice))

    return run


# Without jit, which `jax.disable_jit` takes away, there is no lowering.
_scan_pass.def_impl(lambda *flat, **params: _flat_pass(jax.default_backend())(*flat, **params))
mlir.register_lowering(_scan_pass, mlir.lower_fun(_flat_pass(None), multiple_results=True))
for _platform in ("cpu", *_BEST):
    mlir.register_lowering(_scan_pass, mlir.lower_fun(_flat_pass(_platform), multiple_results=True), platform=_platform)


def _choose(args: ScanArgs, options: ScanOptions, implementation: str | None, pass_name: str, *arrays):
    """Calls `forward` or `backward` of the implementation, of the platform's best one where none is named."""
    if implementation in _PALLAS:
        return getattr(_kernel(implementation), pass_name)(args, *arrays, options)
    choice = dict(options=options, pass_name=pass_name, takes_best=implementation is None)
    # All implementations give the same shapes; `chunked` is quick to trace for them.
    shapes, out_tree = jax.tree.flatten(jax.eval_shape(lambda *xs: _run_pass(None, xs[0], xs[1:], **choice), args, *arrays))
    flat, tree = jax.tree.flatten((args, *arrays))
    outs = tuple((x.shape, x.dtype) for x in shapes)
    return jax.tree.unflatten(out_tree, _scan_pass.bind(*flat, tree=tree, outs=outs, **choice))


def _forward(args: ScanArgs, options: ScanOptions, implementation: str | None):
    """y [B, L, E], final state [B, E, N], states entering the chunks [B, L / chunk, N, E]."""
    return _choose(args, options, implementation, "forward")


def _backward(args: ScanArgs, entering, dy, dfinal, options: ScanOptions, implementation: str | None) -> ScanArgs:
    """Gradients; those of A, D and delta_bias are per example, [B, ...]."""
    return _choose(args, options, implementation, "backward", entering, dy, dfinal)


def _flattened_over_vmap(function):
    """Under vmap, join the mapped axis and the batch into one batch, so that a kernel's grid never changes under it.

    `function(args, *rest)` has a batch axis first on every array in and out, except the shared A, D and delta_bias of args.
    If one of those is itself mapped, the examples differ in it, and the calls are made one after another.
    """
    function = jax.custom_batching.custom_vmap(function)

    @function.def_vmap
    def rule(axis_size, in_batched, args, *rest):
        args_batched, rest_batched = in_batched[0], in_batched[1:]
        if any(getattr(args_batched, name) for name in SHARED):

            def one(i):
                pick = functools.partial(_pick, i)
                return function(*jax.tree.map(pick, (args, *rest), (args_batched, *rest_batched)))

            outs = jax.lax.map(one, jnp.arange(axis_size))
            return outs, jax.tree.map(lambda _: True, outs)
        shared = {name: getattr(args, name) for name in SHARED}

        def join(x, is_batched):
            x = x if is_batched else jnp.broadcast_to(x[None], (axis_size, *x.shape))
            return x.reshape((-1, *x.shape[2:]))

        none = dict.fromkeys(SHARED)
        joined_args, *joined_rest = jax.tree.map(
            join, (args._replace(**none), *rest), (args_batched._replace(**none), *rest_batched)
        )
        outs = function(joined_args._replace(**shared), *joined_rest)
        outs = jax.tree.map(lambda x: x.reshape((axis_size, -1, *x.shape[1:])), outs)
        return outs, jax.tree.map(lambda _: True, outs)

    return function


def _pick(i, x, is_batched):
    return x[i] if is_batched else x


# Jitted, so that a stack of equal layers traces and lowers every implementation once.
@functools.partial(jax.jit, static_argnums=(1, 2))
def _run_forward(args, options, implementation):
    return _flattened_over_vmap(lambda args: _forward(args, options, implementation))(args)


@functools.partial(jax.jit, static_argnums=(4, 5))
def _run_backward(args, entering, dy, dfinal, options, implementation):
    run = _flattened_over_vmap(
        lambda args, entering, dy, dfinal: _backward(args, entering, dy, dfinal, options, implementation)
    )
    return run(args, entering, dy, dfinal)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def scan(args: ScanArgs, options: ScanOptions, implementation: str | None) -> tuple[jax.Array, jax.Array]:
    """y [B, L, E] in u.dtype and the final state [B, E, N]. Saves the inputs and the states entering each chunk."""
    y, final, _ = _run_forward(args, options, implementation)
    return y, final


def _scan_fwd(args, options, implementation):
    y, final, entering = _run_forward(args, options, implementation)
    return (y, final), (args, entering)


def _scan_bwd(options, implementation, residuals, cotangents):
    args, entering = residuals
    dy, dfinal = cotangents
    grads = _run_backward(args, entering, dy, dfinal, options, implementation)
    # A fixed order of summation: partial sums per example, then one sum.
    summed = {name: None if getattr(grads, name) is None else jnp.sum(getattr(grads, name), axis=0) for name in SHARED}
    flags = {name: None if getattr(args, name) is None else jnp.zeros_like(getattr(args, name)) for name in ("valid", "keep")}
    return (grads._replace(**summed, **flags),)


scan.defvjp(_scan_fwd, _scan_bwd)
