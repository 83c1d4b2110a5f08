"""What the tests of single ops share: run a function on the CPU and on accel, compare the results,
the gradients and the errors."""

from collections.abc import Callable, Sequence

import pytest
import torch

FLOATING = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
INTEGER = [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8]
ALL = [*FLOATING, *INTEGER, torch.bool]
SHAPES = [(), (1,), (7,), (300,), (5, 1), (3, 5), (4, 65, 3), (2, 3, 4, 5), (0,), (0, 3), (3, 0)]

# Relative and absolute. 16-bit results may differ by two roundings: some CPU kernels round between
# steps where the device rounds once.
TOLERANCES = {
    torch.float32: (2e-5, 2e-5),
    torch.float64: (1e-10, 1e-10),
    torch.bfloat16: (2e-2, 2e-2),
    torch.float16: (3e-3, 3e-3),
}


def _transposed(x: torch.Tensor) -> torch.Tensor:
    return x.transpose(0, -1).contiguous().transpose(0, -1) if x.dim() > 1 else x


def _every_other(x: torch.Tensor) -> torch.Tensor:
    return torch.stack([x, x], -1)[..., 1]


def _shifted(x: torch.Tensor) -> torch.Tensor:
    return torch.cat([x.new_zeros(1), x.reshape(-1)])[1:].view(x.shape)


# The same values, laid out differently.
LAYOUTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "contiguous": lambda x: x,
    "transposed": _transposed,
    "every other": _every_other,
    "shifted": _shifted,
}


def values(shape: Sequence[int], dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """CPU values that suit the dtype: normal, small whole numbers, or true and false."""
    if dtype.is_floating_point:
        return torch.randn(shape).to(dtype)
    if dtype == torch.bool:
        return torch.rand(shape) > 0.4
    low = 0 if dtype == torch.uint8 else -4
    return torch.randint(low, 5, shape).to(dtype)


def mixed(shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """Like values(), with ties; in floating dtypes both zeros, infinities and NaN as well."""
    x = values(shape, dtype)
    if dtype.is_floating_point and x.numel() > 10:
        flat = x.view(-1)
        flat[::5] = 1
        flat[1::7], flat[2::7] = 0.0, -0.0
        flat[3::11], flat[4::13] = float("inf"), -float("inf")
        flat[flat.numel() // 3 :: 9] = float("nan")
    return x


def _flat(result: object) -> list[torch.Tensor]:
    if torch.is_tensor(result):
        return [result]
    return [x for part in result for x in _flat(part)] if isinstance(result, tuple | list) else []


def _run(function, inputs, device, layout, backward):
    arguments = []
    for x in inputs:
        if torch.is_tensor(x):
            x = layout(x.detach().clone().to(device))
            x = x.requires_grad_(backward and x.dtype.is_floating_point)
        arguments.append(x)
    results = _flat(function(*arguments))
    grads = []
    wanted = [x for x in arguments if torch.is_tensor(x) and x.requires_grad]
    roots = [r for r in results if r.requires_grad]
    if backward and roots:
        generator = torch.Generator().manual_seed(7)
        seeds = [
            torch.randn(r.shape, generator=generator, dtype=torch.float64).to(r.dtype).to(device)
            for r in roots
        ]
        grads = torch.autograd.grad(roots, wanted, seeds, allow_unused=True)
        grads = [torch.zeros(()) if g is None else g for g in grads]
    return [r.detach() for r in results], list(grads)


def assert_as_on_cpu(
    function: Callable,
    *inputs: object,
    layout: str = "contiguous",
    backward: bool = False,
    rtol: float | None = None,
    atol: float | None = None,
) -> None:
    """function(*inputs) gives the same results on both devices, in sizes, dtypes and values, and
    with backward the same gradients of all floating inputs."""
    cpu, cpu_grads = _run(function, inputs, "cpu", LAYOUTS[layout], backward)
    accel, accel_grads = _run(function, inputs, "accel", LAYOUTS[layout], backward)
    assert len(cpu) == len(accel) and len(cpu_grads) == len(accel_grads)
    for number, (expected, got) in enumerate(
        zip(cpu + cpu_grads, accel + accel_grads, strict=True)
    ):
        limits = TOLERANCES.get(expected.dtype, (0, 0))
        torch.testing.assert_close(
            got.cpu(),
            expected,
            rtol=limits[0] if rtol is None else rtol,
            atol=limits[1] if atol is None else atol,
            equal_nan=True,
            msg=lambda text, number=number: f"result {number}: {text}",
        )


def assert_same_error(function: Callable[[str], object], message: bool = True) -> None:
    """function(device) raises the same type, and in its first line the same words, on both."""

    def error(device: str) -> tuple[type, str]:
        with pytest.raises(Exception) as caught:
            function(device)
            if device == "accel":
                torch.accel.synchronize()
        text = str(caught.value).replace("accel:0", "cpu").splitlines()[0]
        return type(caught.value), text if message else ""

    assert error("accel") == error("cpu")


def natively(counted, function: Callable[[], object]) -> object:
    """The result of a function that neither waits, nor falls back, nor takes a host op."""
    with counted() as change:
        result = function()
    assert (change["host_ops"], change["fallbacks"], change["waits"]) == (0, 0, 0)
    return result
