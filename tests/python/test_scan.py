"""Scans (cumsum, cumprod, logcumsumexp, cummax, cummin) and the reductions that find a place
(argmax, argmin, max and min along a dimension) against the CPU."""

import pytest
import torch
from compare import (
    ALL,
    FLOATING,
    LAYOUTS,
    SHAPES,
    assert_as_on_cpu,
    assert_same_error,
    mixed,
    natively,
    values,
)
from hypothesis import given
from hypothesis import strategies as st

BLOCK = 4096  # kScanBlock

SUMS = {"cumsum": torch.cumsum, "cumprod": torch.cumprod}
EXTREMA = {"cummax": torch.cummax, "cummin": torch.cummin}
PLACES = {"argmax": torch.argmax, "argmin": torch.argmin}
DIM_EXTREMA = {"max": torch.max, "min": torch.min}
SOME_DTYPES = [torch.float32, torch.bfloat16, torch.float64, torch.int64, torch.uint8]
SCANS = {**SUMS, "logcumsumexp": torch.logcumsumexp, **EXTREMA}

BY_COMPARISON = [*EXTREMA.values(), *PLACES.values(), *DIM_EXTREMA.values()]


def dims_of(shape) -> range:
    return range(-1, max(len(shape), 1) - 1)


@pytest.mark.parametrize("dtype", ALL, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_scans_over_any_dimension(shape, dtype):
    x = values(shape, dtype)
    for dim in dims_of(shape):
        for function in [*SUMS.values(), *EXTREMA.values()]:
            assert_as_on_cpu(lambda x, f=function, d=dim: f(x, d), x, backward=True)
        if dtype.is_floating_point:
            assert_as_on_cpu(lambda x, d=dim: x.logcumsumexp(d), x, backward=True)


@pytest.mark.parametrize("dtype", ALL, ids=str)
@pytest.mark.parametrize("shape", [s for s in SHAPES if 0 not in s], ids=str)
@pytest.mark.parametrize("keepdim", [False, True])
def test_places_over_any_dimension(shape, dtype, keepdim):
    x = values(shape, dtype)
    for dim in dims_of(shape):
        for function in DIM_EXTREMA.values():
            assert_as_on_cpu(lambda x, f=function, d=dim: f(x, d, keepdim), x, backward=True)
        for function in PLACES.values() if dtype != torch.bool else []:
            assert_as_on_cpu(lambda x, f=function, d=dim: f(x, d, keepdim), x)
            assert_as_on_cpu(lambda x, f=function: f(x, None, keepdim), x)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", SOME_DTYPES, ids=str)
def test_layouts(layout, dtype):
    x = values((19, 7, 37), dtype)
    for dim in range(3):
        for function in [torch.cumsum, *BY_COMPARISON]:
            assert_as_on_cpu(lambda x, f=function, d=dim: f(x, d), x, layout=layout)


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("shape", [(700,), (50, 90), (9, 20, 33)], ids=str)
def test_nan_ties_zeros_and_infinities(shape, dtype):
    x = mixed(shape, dtype)
    for dim in dims_of(shape):
        for function in BY_COMPARISON:
            assert_as_on_cpu(lambda x, f=function, d=dim: f(x, d), x, rtol=0, atol=0)
        assert_as_on_cpu(lambda x, d=dim: x.logcumsumexp(d), x)
        assert_as_on_cpu(lambda x, d=dim: x.cumsum(d), x)


@pytest.mark.parametrize("infinity", [float("inf"), -float("inf")])
def test_lines_of_nothing_but_infinities(infinity):
    x = torch.full((3, 40), infinity)
    for function in [
        torch.logcumsumexp,
        *EXTREMA.values(),
        *PLACES.values(),
        *DIM_EXTREMA.values(),
    ]:
        assert_as_on_cpu(lambda x, f=function: f(x, 1), x)


@pytest.mark.parametrize("dtype", SOME_DTYPES[:4], ids=str)
@pytest.mark.parametrize("length", [BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK, 3 * BLOCK + 17])
def test_long_lines_are_scanned_in_blocks(length, dtype):
    # Whole numbers: what a dtype holds exactly has one sum in every order.
    x = values((2, length, 3), torch.int64).clamp(-1, 1).to(dtype)
    for y in (x, x[..., 0], x[0, :, 0]):
        dim = y.dim() - 1 if y.dim() < 3 else 1
        if dtype != torch.bfloat16:
            assert_as_on_cpu(lambda y, d=dim: y.cumsum(d), y, rtol=0, atol=0)
        for function in BY_COMPARISON:
            assert_as_on_cpu(lambda y, f=function, d=dim: f(y, d), y, rtol=0, atol=0)
        if dtype.is_floating_point:
            assert_as_on_cpu(lambda y, d=dim: (y * 3).logcumsumexp(d), y, rtol=1e-2, atol=1e-4)
    if dtype.is_floating_point:
        near_one = (values((3, length)) / 1000 + 1).to(dtype)
        loose = 0.2 if dtype == torch.bfloat16 else 1e-4
        assert_as_on_cpu(lambda x: x.cumprod(1), near_one, rtol=loose, atol=loose)


def test_fp32_is_added_in_fp64_as_on_the_cpu():
    x = torch.randn(33, BLOCK)
    for place in LAYOUTS.values():
        assert torch.equal(place(x.to("accel")).cumsum(1).cpu(), x.cumsum(1))
        assert torch.equal(place(x.to("accel")).cumsum(0).cpu(), x.cumsum(0))
    one = torch.ones(1 << 25, device="accel")
    assert one.cumsum(0)[-1].item() == 1 << 25


def test_layout_does_not_change_a_bit():
    x = values((33, 5000, 2)).to("accel")
    for function in SCANS.values():
        for dim in range(3):
            results = [function(place(x), dim) for place in LAYOUTS.values()]
            results = [r if torch.is_tensor(r) else r.values for r in results]
            assert all(torch.equal(r, results[0]) for r in results[1:])


BITS = """
    import hashlib, torch
    torch.manual_seed(0)
    digest = hashlib.sha256()
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        for shape in ((70000,), (40, 9000), (9000, 40), (300, 20, 3)):
            x = torch.randn(shape).to(dtype).to("accel")
            for dim in range(x.dim()):
                results = [(x / 100 + 1).cumprod(dim)]
                for f in (torch.cumsum, torch.logcumsumexp, torch.cummax, torch.argmin, torch.sort):
                    result = f(x * 2, dim)
                    results += [result] if torch.is_tensor(result) else result
                for t in results:
                    t = (t * 2).cpu().reshape(-1)
                    digest.update(t.view(torch.uint8).numpy().tobytes())
    print(digest.hexdigest())
"""


def test_bits_depend_on_neither_fusion_nor_threads(run_python):
    settings = [("1", "2"), ("0", "2"), ("1", "1")]
    digests = [run_python(BITS, ACCEL_FUSION=f, OMP_NUM_THREADS=n) for f, n in settings]
    assert len(digests[0]) > 60 and digests == digests[:1] * 3


@given(data=st.data())
def test_any_shape_stride_and_dtype(data):
    shape = data.draw(st.lists(st.integers(1, 20), min_size=1, max_size=4))
    dtype = data.draw(st.sampled_from(ALL))
    steps = [data.draw(st.sampled_from([1, 1, 2, 3])) for _ in shape]
    order = data.draw(st.permutations(range(len(shape))))
    dim = data.draw(st.integers(-len(shape), len(shape) - 1))
    whole = values([n * s for n, s in zip(shape, steps, strict=True)], dtype)

    def view(x: torch.Tensor) -> torch.Tensor:
        return x[tuple(slice(None, None, s) for s in steps)].permute(order)

    for function in [*SUMS.values(), *EXTREMA.values(), *DIM_EXTREMA.values()]:
        expected, got = function(view(whole), dim), function(view(whole.to("accel")), dim)
        for e, g in zip(*([x] if torch.is_tensor(x) else x for x in (expected, got)), strict=True):
            torch.testing.assert_close(g.cpu(), e, rtol=2e-2, atol=2e-2, equal_nan=True)


@pytest.mark.parametrize("function", SUMS.values(), ids=SUMS)
@pytest.mark.parametrize("dtype", ALL, ids=str)
def test_dtype_argument(function, dtype):
    for to in [torch.float32, torch.bfloat16, torch.int64, torch.int32, torch.uint8]:
        if not dtype.is_floating_point or to.is_floating_point:
            assert_as_on_cpu(lambda x, to=to: function(x, 1, dtype=to), values((5, 40), dtype))


@pytest.mark.parametrize("function", SUMS.values(), ids=SUMS)
def test_whole_numbers_wrap(function):
    for dtype in [torch.uint8, torch.int8, torch.int32]:
        x = torch.randint(0, 100, (6, 50)).to(dtype)
        assert_as_on_cpu(lambda x, d=dtype: function(x, 1, dtype=d), x)
        assert_as_on_cpu(lambda x: function(x, 1), x)


def test_out_and_in_place():
    x = values((6, 40))
    for device in ("cpu", "accel"):
        y = x.to(device)
        out = torch.zeros(40, 6, device=device).t()
        assert torch.cumsum(y, 1, out=out) is out
        torch.testing.assert_close(out.cpu(), x.cumsum(1))
        for function in SCANS:
            if function in SUMS:
                z = y.clone()
                assert getattr(z, function + "_")(0) is z
                torch.testing.assert_close(z.cpu(), getattr(x, function)(0))
        kept, places = torch.empty(0, device=device), torch.empty(0, device=device).long()
        torch.max(y, 1, out=(kept, places))
        torch.cummin(y, 1, out=(kept.resize_(0), places.resize_(0)))
        torch.testing.assert_close(kept.cpu(), x.cummin(1).values)
        torch.argmax(y, 1, out=places.resize_(0))
        torch.testing.assert_close(places.cpu(), x.argmax(1))


def test_output_over_the_input_s_memory():
    results = []
    for device in ("cpu", "accel"):
        memory = torch.arange(60.0).to(device) % 7
        torch.cumsum(memory[:50].clone(), 0, out=memory[5:55])
        memory[:36].view(6, 6).t().cumsum_(0)
        torch.logcumsumexp(memory[10:20].clone(), 0, out=memory[10:20])
        results.append(memory.cpu())
    torch.testing.assert_close(*results)
    x = (torch.arange(60.0) % 7).to("accel")
    torch.cumsum(x[:50], 0, out=x[5:55])  # reads what was there before the call
    torch.testing.assert_close(x[5:55].cpu(), (torch.arange(50.0) % 7).cumsum(0))


def test_they_are_native(counted):
    x = values((40, 60)).to("accel")

    def use():
        for function in [*SCANS.values(), *PLACES.values(), *DIM_EXTREMA.values()]:
            function(x, 1)
            function(x, 0)
        x.argmax()
        (x > 0).cumsum(1)
        x.clone().cumsum_(0)

    natively(counted, use)


def test_second_derivatives():
    x = torch.rand(4, 5, dtype=torch.float64, device="accel").add(0.5).requires_grad_()
    for function in [torch.cumsum, torch.cumprod, torch.logcumsumexp]:
        assert torch.autograd.gradgradcheck(lambda x, f=function: f(x, 1), x)


BAD = {
    "dimension": lambda d: torch.ones(3, 4, device=d).cumsum(2),
    "dimension of argmax": lambda d: torch.ones(3, 4, device=d).argmax(-3),
    "dimension of max": lambda d: torch.ones(3, 4, device=d).max(5),
    "dimension of cummax": lambda d: torch.ones(3, 4, device=d).cummax(2),
    "argmax of nothing": lambda d: torch.ones(0, 4, device=d).argmax(),
    "argmax of empty lines": lambda d: torch.ones(4, 0, device=d).argmax(1),
    "max of empty lines": lambda d: torch.ones(4, 0, device=d).max(1),
    "out of another dtype": lambda d: torch.cumsum(
        torch.ones(4, device=d), 0, dtype=torch.float32, out=torch.ones(4, device=d).double()
    ),
    "places of another dtype": lambda d: torch.argmax(
        torch.ones(4, device=d), 0, out=torch.ones((), device=d)
    ),
    "in place over itself": lambda d: torch.ones(1, device=d).expand(3).cumsum_(0),
    "out over itself": lambda d: torch.cumsum(
        torch.ones(3, device=d), 0, out=torch.ones(1, device=d).expand(3)
    ),
    "in place with another dtype": lambda d: torch.ones(4, device=d).cumsum_(0, dtype=torch.int64),
}

# What the CPU's kernels raise, with a word of where.
REFUSED = {
    "argmax of bool": lambda d: torch.ones(4, device=d, dtype=torch.bool).argmax(0),
    "cumsum to bool": lambda d: torch.ones(4, device=d).cumsum(0, dtype=torch.bool),
    "logcumsumexp of whole numbers": lambda d: torch.ones(4, device=d).long().logcumsumexp(0),
}


@pytest.mark.parametrize("name", [*BAD, *REFUSED])
def test_errors(name):
    assert_same_error({**BAD, **REFUSED}[name], message=name in BAD)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128], ids=str)
def test_complex_numbers_are_left_to_the_host(dtype):
    x = torch.randn(5, 7, dtype=dtype)
    for function in SUMS.values():
        assert_as_on_cpu(lambda x, f=function: torch.view_as_real(f(x, 1)), x, rtol=1e-4, atol=1e-4)
