"""Complex arithmetic against the CPU: layouts, in-place forms over their own inputs, mixed real
operands, and the programs that train with it (rotary embeddings, spectral losses)."""

import pytest
import torch
from compare import LAYOUTS, natively

DTYPES = [torch.complex64, torch.complex128]
TOLERANCE = {torch.complex64: 1e-5, torch.complex128: 1e-12}

UNARY = {
    "neg": torch.neg,
    "abs": torch.abs,
    "angle": torch.angle,
    "exp": torch.exp,
    "sqrt": torch.sqrt,
    "reciprocal": torch.reciprocal,
    "sgn": torch.sgn,
    "conj": torch.conj_physical,
    "square": torch.square,
    "sum": torch.sum,
    "mean": lambda z: z.mean(-1, keepdim=True),
    "sum of the first": lambda z: z.sum(0),
    "a real number": lambda z: 2 * z / 3 - 1,
    "a complex number": lambda z: (z + 1j) * (2 - 1j),
    "a real tensor": lambda z: z * z.real + z.imag,
    "from a real tensor": lambda z: z.real - z,
    "alpha": lambda z: z.add(z.abs(), alpha=2).sub(z, alpha=1j),
    "where": lambda z: torch.where(z.real > 0, z, -z),
}
BINARY = {"add": torch.add, "sub": torch.sub, "mul": torch.mul, "div": torch.div}


def same(on_device: torch.Tensor, on_cpu: torch.Tensor, dtype: torch.dtype) -> None:
    limit = TOLERANCE[dtype]
    torch.testing.assert_close(on_device.cpu(), on_cpu, rtol=limit, atol=limit)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", UNARY)
def test_a_function_is_as_on_the_cpu(counted, name, dtype, layout):
    z = torch.randn(5, 70, dtype=dtype)
    on_device = LAYOUTS[layout](z.to("accel"))
    result = natively(counted, lambda: UNARY[name](on_device))
    same(result, UNARY[name](LAYOUTS[layout](z)), dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", BINARY)
def test_operands_broadcast_and_gradients_flow(name, dtype):
    inputs = [torch.randn(4, 1, 33, dtype=dtype), torch.randn(3, 33, dtype=dtype)]
    results = []
    for device in ("cpu", "accel"):
        a, b = (x.to(device, copy=True).requires_grad_() for x in inputs)
        y = BINARY[name](a, b)
        y.abs().sum().backward()
        results.append([y.detach(), a.grad, b.grad])
    for on_cpu, on_device in zip(*results, strict=True):
        same(on_device, on_cpu, dtype)


def square_in_place(z: torch.Tensor) -> None:
    z.mul_(z)
    z.div_(z.conj_physical())
    z[::2].mul_(z[1::2])


def test_in_place_both_parts_are_read_before_either_is_written(counted):
    z = torch.randn(300, dtype=torch.complex64)
    on_device = z.to("accel")
    natively(counted, lambda: square_in_place(on_device))
    square_in_place(z)
    same(on_device, z, torch.complex64)


def test_parts_and_wholes_of_one_memory_keep_their_order():
    z = torch.randn(40, 6, dtype=torch.complex64)
    results = []
    for device in ("cpu", "accel"):
        w = z.to(device, copy=True)
        w.real.add_(w.imag)
        w.mul_(1j)
        w.imag.copy_(w.real * 2)
        torch.view_as_real(w).mul_(0.5)
        results.append(w + w.conj())
    same(results[1], results[0], torch.complex64)


def rotary(x: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    pairs = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * turns[:, None]).flatten(3).type_as(x)


def test_rotary_embeddings_are_native_forward_and_backward(counted):
    x = torch.randn(2, 16, 4, 32)
    angles = torch.outer(torch.arange(16.0), 1e4 ** -torch.linspace(0, 1, 16))
    results = []
    for device in ("cpu", "accel"):
        y, angle = x.to(device, copy=True).requires_grad_(), angles.to(device)
        turns = torch.polar(torch.ones_like(angle), angle)
        with counted() as change:
            out = rotary(y, turns)
            out.square().sum().backward()
        assert change["host_ops"] == 0
        results.append([out.detach(), y.grad])
    for on_cpu, on_device in zip(*results, strict=True):
        torch.testing.assert_close(on_device.cpu(), on_cpu, rtol=1e-5, atol=1e-5)
