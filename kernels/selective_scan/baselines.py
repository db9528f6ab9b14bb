"""What the scan is measured against. None of these is offered by `selective_scan`."""

from __future__ import annotations

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np

from kernels.selective_scan.arguments import activate_delta, finish_output


def plain_scan(u, delta, A, B, C, D=None, z=None, delta_bias=None, *, delta_softplus=False, reverse=False):
    """`jax.lax.scan` over time with the state [B, N, E], differentiated by JAX: what one writes first, laid out well."""
    f32 = jnp.float32
    delta = activate_delta(delta, delta_bias, delta_softplus, f32)
    A = A.T

    def step(h, t):
        delta_t, x_t, B_t, C_t = t
        h = jnp.exp(delta_t[:, None] * A) * h + B_t[:, :, None] * x_t[:, None]
        return h, jnp.sum(h * C_t[:, :, None], axis=1)

    steps = tuple(jnp.moveaxis(x.astype(f32), 1, 0) for x in (delta, delta * u.astype(f32), B, C))
    _, y = jax.lax.scan(step, jnp.zeros((u.shape[0], *A.shape), f32), steps, reverse=reverse)
    return finish_output(jnp.moveaxis(y, 0, 1), u, D, z, None).astype(u.dtype)


def torch_available() -> bool:
    """Whether PyTorch can be imported here."""
    return importlib.util.find_spec("torch") is not None


def torch_scan(arrays: dict, options: dict):
    """A PyTorch CPU scan over time. Returns (run_forward, run_forward_and_backward), functions of the number of calls."""
    import torch

    tensors = {k: torch.tensor(np.asarray(v, np.float32), requires_grad=True) for k, v in arrays.items()}

    def forward():
        t = tensors
        delta = t["delta"] + t["delta_bias"] if "delta_bias" in t else t["delta"]
        if options["delta_softplus"]:
            delta = torch.nn.functional.softplus(delta)
        x = delta * t["u"]
        h = torch.zeros(t["u"].shape[0], *t["A"].shape)
        ys = []
        for i in range(t["u"].shape[1]):
            h = torch.exp(delta[:, i, :, None] * t["A"]) * h + x[:, i, :, None] * t["B"][:, i, None]
            ys.append(torch.einsum("ben,bn->be", h, t["C"][:, i]))
        y = torch.stack(ys, 1)
        if "D" in t:
            y = y + t["D"] * t["u"]
        return y * torch.nn.functional.silu(t["z"]) if "z" in t else y

    def only_forward(calls):
        with torch.no_grad():
            for _ in range(calls):
                forward()

    def both(calls):
        for _ in range(calls):
            for t in tensors.values():
                t.grad = None
            forward().sum().backward()

    return only_forward, both


def mamba_ssm_scan(arrays: dict, options: dict, dtype: str):
    """mamba_ssm's CUDA kernel, called without its Python package, or None where it cannot be had.

    Its extension `selective_scan_cuda` wants [B, E, L]; the arrays are laid out so beforehand, and that is not timed.
    Returns (run_forward, run_forward_and_backward), functions of the number of calls that end with a synchronisation.
    """
    if importlib.util.find_spec("selective_scan_cuda") is None or not torch_available():
        return None
    import selective_scan_cuda
    import torch

    if not torch.cuda.is_available():
        return None
    low = torch.bfloat16 if dtype == "bfloat16" else torch.float32

    def put(name, shape_order=None, to=None):
        if name not in arrays:
            return None
        x = torch.tensor(np.asarray(arrays[name], np.float32), device="cuda", dtype=to or torch.float32)
        return x.permute(shape_order).contiguous() if shape_order else x

    u, delta, z = (put(k, (0, 2, 1), low) for k in ("u", "delta", "z"))
    B, C = (put(k, (0, 2, 1), low)[:, None].contiguous() for k in ("B", "C"))
    A, D, bias = put("A"), put("D"), put("delta_bias")
    softplus = options["delta_softplus"]
    dy = torch.ones_like(u)

    def forward():
        return selective_scan_cuda.fwd(u, delta, A, B, C, D, z, bias, softplus)

    def only_forward(calls):
        for _ in range(calls):
            forward()
        torch.cuda.synchronize()

    def both(calls):
        for _ in range(calls):
            out, x, *_ = forward()
            saved = out if z is not None else None
            selective_scan_cuda.bwd(u, delta, A, B, C, D, z, bias, dy, x, saved, None, softplus, False)
        torch.cuda.synchronize()

    return only_forward, both
