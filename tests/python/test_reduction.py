"""Reductions against the CPU: dtypes, dimensions, layouts, empty inputs, out= and errors."""

import math

import pytest
import torch
from compare import (
    ALL,
    FLOATING,
    INTEGER,
    LAYOUTS,
    SHAPES,
    assert_as_on_cpu,
    assert_same_error,
    natively,
    values,
)

DIMS = [0, -1, (0, 1), (0, -1), (), None]


def fits(dims, shape) -> bool:
    rank = max(len(shape), 1)
    wrapped = [
        d % rank for d in ([dims] if isinstance(dims, int) else dims or []) if -rank <= d < rank
    ]
    listed = 1 if isinstance(dims, int) else len(dims or [])
    return len(set(wrapped)) == listed


@pytest.mark.parametrize("dtype", ALL, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("keepdim", [False, True])
def test_sum_over_any_dimensions(shape, dtype, keepdim):
    x = values(shape, dtype)
    for dims in DIMS:
        if fits(dims, shape):
            assert_as_on_cpu(lambda x, d=dims: x.sum(d, keepdim), x)
    assert_as_on_cpu(lambda x: x.sum(), x, rtol=2e-2 if dtype == torch.float16 else None)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool], ids=str)
def test_layouts(layout, dtype):
    x = values((6, 7, 65), dtype)
    for dims in [0, 1, 2, (0, 2), (1, 2), (0, 1, 2)]:
        assert_as_on_cpu(lambda x, d=dims: x.sum(d), x, layout=layout)
        assert_as_on_cpu(lambda x, d=dims: x.amax(d), x, layout=layout)
        assert_as_on_cpu(lambda x, d=dims: x.any(d), x, layout=layout)


def test_layout_does_not_change_a_bit():
    x = values((33, 129, 17)).to("accel")
    for dims in [0, 1, 2, (0, 2), (0, 1)]:
        results = [place(x).sum(dims) for place in LAYOUTS.values()]
        for result in results[1:]:
            assert torch.equal(result, results[0])


@pytest.mark.parametrize("dtype", ALL, ids=str)
@pytest.mark.parametrize("target", [torch.float32, torch.float64, torch.int32, torch.bool], ids=str)
def test_sum_and_prod_into_another_dtype(dtype, target):
    x = values((5, 9), dtype)
    assert_as_on_cpu(lambda x: x.sum(0, dtype=target), x, rtol=1e-2, atol=1e-2)
    assert_as_on_cpu(lambda x: x.sum(dtype=target), x, rtol=1e-2, atol=1e-2)
    if target != torch.bool:
        assert_as_on_cpu(lambda x: x[:2].prod(0, dtype=target), x, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_mean_and_variances(shape, dtype):
    x = values(shape, dtype)
    for dims in DIMS:
        if not fits(dims, shape):
            continue
        assert_as_on_cpu(lambda x, d=dims: x.mean(d), x)
        assert_as_on_cpu(lambda x, d=dims: x.mean(d, keepdim=True), x)
        for correction in (0, 1, 2.5):
            assert_as_on_cpu(
                lambda x, d=dims, c=correction: (
                    torch.var(x, d, correction=c),
                    torch.std(x, d, correction=c, keepdim=True),
                    torch.var_mean(x, d, correction=c, keepdim=True),
                    torch.std_mean(x, d, correction=c),
                ),
                x,
            )


@pytest.mark.parametrize("dtype", ALL, ids=str)
def test_extrema(dtype):
    for shape in [(), (1,), (7,), (3, 5), (4, 65, 3)]:
        x = values(shape, dtype)
        assert_as_on_cpu(lambda x: (x.max(), x.min(), x.amax(), x.amin()), x)
        assert_as_on_cpu(lambda x: (x.amax(-1), x.amin(0, keepdim=True)), x)
        assert_as_on_cpu(lambda x: (x.max(-1), x.min(0)) if x.dim() else x, x)


def test_extrema_propagate_nan_and_infinity():
    x = torch.tensor([[1.0, math.nan, 3.0], [-math.inf, 2.0, math.inf]])
    assert_as_on_cpu(lambda x: (x.amax(1), x.amin(1), x.amax(0), x.amin(0), x.max(), x.min()), x)


@pytest.mark.parametrize("dtype", ALL, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_any_and_all(shape, dtype):
    x = values(shape, dtype)
    assert_as_on_cpu(lambda x: (x.any(), x.all()), x)
    for dim in (0, -1):
        assert_as_on_cpu(lambda x, d=dim: (x.any(d), x.all(d), x.any(d, True), x.all(d, True)), x)
    for dims in [(), (0,), (0, -1), None]:
        if fits(dims, shape):
            assert_as_on_cpu(lambda x, d=dims: (torch.any(x, d), torch.all(x, d)), x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, *INTEGER], ids=str)
@pytest.mark.parametrize("shape", [(), (1,), (7,), (3, 5), (2, 3, 4), (0,), (0, 3)], ids=str)
def test_prod(shape, dtype):
    x = values(shape, dtype)
    assert_as_on_cpu(lambda x: x.prod(), x)
    for dim in (0, -1):
        assert_as_on_cpu(lambda x, d=dim: (x.prod(d), x.prod(d, keepdim=True)), x)


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("order", [2, 1, math.inf, 0, -math.inf, 3])
def test_norms(dtype, order):
    norm = torch.linalg.vector_norm
    for shape in [(), (7,), (3, 5), (4, 65, 3)]:
        x = values(shape, dtype)
        assert_as_on_cpu(lambda x: norm(x, order), x)
        assert_as_on_cpu(lambda x: norm(x, order, dim=-1, keepdim=True), x)
        assert_as_on_cpu(lambda x: (x.norm(order), torch.norm(x, order, 0)), x)
    assert_as_on_cpu(lambda x: torch.norm_except_dim(x, 2, 0), values((3, 4, 5), torch.float32))


def test_norm_into_a_wider_dtype():
    x = values((3, 5), torch.bfloat16)
    assert_as_on_cpu(lambda x: torch.linalg.vector_norm(x, 2, 1, dtype=torch.float32), x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_gradients(dtype):
    x = values((4, 6, 5), dtype)
    for reduce in [
        lambda x: x.sum(),
        lambda x: x.sum((0, 2)),
        lambda x: x.mean(1, keepdim=True),
        lambda x: x.prod(),
        lambda x: x.prod(1),
        lambda x: x.amax((0, 1)),
        lambda x: x.max(),
        lambda x: x.var(1),
        lambda x: torch.std_mean(x, (0, 2), correction=0),
        lambda x: torch.linalg.vector_norm(x, 2, 1),
        lambda x: torch.linalg.vector_norm(x, 1),
        lambda x: x.logsumexp((0, 1)),
    ]:
        assert_as_on_cpu(reduce, x, backward=True)


def test_logsumexp():
    x = values((4, 6, 5))
    assert_as_on_cpu(lambda x: (x.logsumexp(1), x.logsumexp((0, 2), keepdim=True)), x)
    assert_as_on_cpu(lambda x: x.logsumexp(0), torch.full((3,), -math.inf))


OUT = {
    "sum": lambda x, out: torch.sum(x, 1, out=out),
    "mean": lambda x, out: torch.mean(x, 1, out=out),
    "prod": lambda x, out: torch.prod(x, 1, out=out),
    "amax": lambda x, out: torch.amax(x, 1, out=out),
    "amin": lambda x, out: torch.amin(x, 1, out=out),
    "var": lambda x, out: torch.var(x, 1, out=out),
    "std": lambda x, out: torch.std(x, 1, out=out),
    "vector_norm": lambda x, out: torch.linalg.vector_norm(x, 2, 1, out=out),
}


@pytest.mark.parametrize("name", OUT)
def test_out_is_written_in_place_and_resized_when_empty(name):
    x = values((3, 5)).to("accel")
    expected = OUT[name](x.cpu(), torch.empty(3))
    out = torch.full((3, 2), -1.0, device="accel")[:, 0]
    assert OUT[name](x, out) is out
    torch.testing.assert_close(out.cpu(), expected)
    empty = torch.empty(0, device="accel")
    torch.testing.assert_close(OUT[name](x, empty).cpu(), expected)
    assert empty.shape == (3,)


def test_out_may_be_the_input_s_memory():
    x = values((4, 4))
    expected = x.sum(0)
    y = x.to("accel")
    torch.sum(y, 0, out=y[1])
    torch.testing.assert_close(y[1].cpu(), expected)


def test_any_and_all_write_to_out():
    x = values((3, 5), torch.bool).to("accel")
    for function in (torch.any, torch.all):
        out = torch.empty(3, dtype=torch.bool, device="accel")
        function(x, 1, out=out)
        assert torch.equal(out.cpu(), function(x.cpu(), 1))


BAD = {
    "sum dim": lambda d: torch.ones(2, 3, device=d).sum(3),
    "sum twice": lambda d: torch.ones(2, 3, device=d).sum((0, 0)),
    "mean of int": lambda d: torch.ones(2, 3, device=d, dtype=torch.int64).mean(0),
    "mean into int": lambda d: torch.ones(2, 3, device=d).mean(0, dtype=torch.int64),
    "mean of bool": lambda d: torch.ones(2, device=d, dtype=torch.bool).mean(),
    "amax of nothing": lambda d: torch.empty(0, 3, device=d).amax(0),
    "amax over all of nothing": lambda d: torch.empty(0, 3, device=d).amax(),
    "max of nothing": lambda d: torch.empty(0, device=d).max(),
    "min of nothing": lambda d: torch.empty(0, device=d).min(),
    "amax out dtype": lambda d: torch.amax(
        torch.ones(2, 3, device=d), 0, out=torch.empty(3, device=d, dtype=torch.float64)
    ),
    "any dim": lambda d: torch.ones(2, 3, device=d).any(2),
    "prod dim": lambda d: torch.ones(2, 3, device=d).prod(2),
    "var of int": lambda d: torch.ones(2, 3, device=d, dtype=torch.int64).var(),
    "var_mean of int": lambda d: torch.var_mean(torch.ones(2, 3, device=d, dtype=torch.int64)),
    "norm of int": lambda d: torch.linalg.vector_norm(torch.ones(2, device=d, dtype=torch.int64)),
    "norm of nothing": lambda d: torch.linalg.vector_norm(torch.empty(0, 3, device=d), math.inf),
    "norm into int": lambda d: torch.linalg.vector_norm(torch.ones(2, device=d), dtype=torch.int64),
    "norm narrower": lambda d: torch.linalg.vector_norm(
        torch.ones(2, device=d), dtype=torch.bfloat16
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_errors_are_the_cpu_s(name):
    assert_same_error(BAD[name])


def test_too_few_degrees_of_freedom_warn():
    with pytest.warns(UserWarning, match="degrees of freedom"):
        assert torch.ones(1, device="accel").var().isnan().item()


def test_reductions_are_recorded(counted):
    x = values((3, 5)).to("accel")
    torch.accel.synchronize()
    natively(
        counted,
        lambda: (
            x.sum(), x.mean(0), x.amax(1), x.max(), x.prod(), (x > 0).any(), (x > 0).all(1),
            x.norm(), x.var(0), torch.std_mean(x, 1), x.logsumexp(1), x.sum((0, 1), True),
        ),
    )  # fmt: skip


# Longer than a tile: one reduction takes several pieces of what never lies in memory.
@pytest.mark.parametrize("length", [255, 300, 1000, 5000, 100_000])
@pytest.mark.parametrize("reduce", [torch.sum, torch.mean, torch.amax, torch.prod, torch.var])
def test_constants(length, reduce):
    x = torch.zeros(1)
    for shape in [(length,), (3, length), (length, 3)]:
        for value in (1.0, 0.5):

            def full(x, shape=shape, value=value):
                return torch.full(shape, value, device=x.device)

            assert_as_on_cpu(lambda x, full=full: reduce(full(x)), x)
            assert_as_on_cpu(lambda x, full=full: reduce(full(x), dim=-1), x)
            assert_as_on_cpu(lambda x, full=full: reduce(full(x) + x, dim=0), x)


def test_large_sums_stay_accurate():
    x = torch.rand(3_000_000)
    exact = x.double().sum()
    assert abs(x.to("accel").sum().item() - exact) < 1e-6 * exact
    column = torch.rand(200_000, 5)
    got = column.to("accel").sum(0).cpu().double()
    torch.testing.assert_close(got, column.double().sum(0), rtol=1e-6, atol=0)
