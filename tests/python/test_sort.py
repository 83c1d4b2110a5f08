"""Sorts, topk, kthvalue and medians against the CPU. Stable sorts have one right answer; elsewhere
the CPU names any of several equal elements, the device the first."""

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
    mixed,
    natively,
    values,
)
from hypothesis import given
from hypothesis import strategies as st

RANKED = [*FLOATING, *INTEGER]
RANKED_SHAPES = [(), (1,), (7,), (40, 9), (3, 2000), (2000, 3), (4, 65, 3)]
# Around the lengths at which the algorithm changes.
LENGTHS = [2, 63, 64, 65, 95, 96, 97, 256, 1023, 1024, 1025, 5000, 70000, 140001]


def sorted_stably(x: torch.Tensor, dim: int, descending: bool) -> tuple:
    return x.sort(dim=dim, descending=descending, stable=True)


def expected_places(x: torch.Tensor, dim: int, k: int, largest: bool) -> tuple:
    """What topk gives where the first of equals is named."""
    ordered = sorted_stably(x, dim, largest)
    if x.dim() == 0:
        return ordered
    return tuple(part.narrow(dim, 0, k) for part in ordered)


def assert_equal(got: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(got.cpu(), expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", ALL, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("descending", [False, True])
def test_sorts_along_any_dimension(shape, dtype, descending):
    x = mixed(shape, dtype)
    for dim in range(-1, max(len(shape), 1) - 1):
        assert_as_on_cpu(
            lambda x, d=dim: sorted_stably(x, d, descending), x, rtol=0, atol=0, backward=True
        )
        assert_as_on_cpu(lambda x, d=dim: x.argsort(dim=d, descending=descending, stable=True), x)
        assert_as_on_cpu(lambda x, d=dim: x.sort(d, descending).values, x, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", ALL, ids=str)
@pytest.mark.parametrize("length", LENGTHS)
def test_lengths(length, dtype):
    x = mixed((2, length), dtype)
    for descending in (False, True):
        assert_as_on_cpu(lambda x, d=descending: sorted_stably(x, 1, d), x, rtol=0, atol=0)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int64, torch.uint8], ids=str)
def test_layouts(layout, dtype):
    x = mixed((19, 70, 37), dtype)
    for dim in range(3):
        assert_as_on_cpu(
            lambda x, d=dim: sorted_stably(x, d, True), x, layout=layout, rtol=0, atol=0
        )
        place = LAYOUTS[layout]
        for k in (1, 5, 19):
            got = place(x.to("accel")).topk(k, dim)
            for g, e in zip(got, expected_places(x, dim, k, True), strict=True):
                assert_equal(g, e)


@pytest.mark.parametrize("dtype", [torch.int64, torch.float64], ids=str)
def test_wide_keys(dtype):
    """int64 within 32 bits of each other are sorted as narrow keys."""
    for low, high in [(-(2**62), 2**62), (2**40, 2**40 + 2**31), (-5, 2**32 - 5), (0, 1)]:
        x = torch.randint(low, high, (3, 2000)).to(dtype)
        for descending in (False, True):
            assert_as_on_cpu(lambda x, d=descending: sorted_stably(x, 1, d), x, rtol=0, atol=0)
    x = torch.tensor([torch.iinfo(torch.int64).min, torch.iinfo(torch.int64).max, 0] * 100)
    assert_as_on_cpu(lambda x: sorted_stably(x, 0, False), x)


@pytest.mark.parametrize("dtype", RANKED, ids=str)
@pytest.mark.parametrize("length", [1, 8, 64, 100, 1000, 5000])
@pytest.mark.parametrize("largest", [False, True])
def test_topk_names_the_first_of_equals(length, dtype, largest):
    x = mixed((3, length), dtype)
    for k in sorted({1, 2, 8, 50, 300, length // 4, length // 2, length} & set(range(length + 1))):
        for dim, y in ((1, x), (0, x.t())):
            values_, places = y.to("accel").topk(k, dim, largest)
            expected_values, expected = expected_places(y, dim, k, largest)
            assert_equal(values_, expected_values)
            assert_equal(places, expected)
    assert_as_on_cpu(lambda x: x.topk(min(length, 5), 1, largest).values, x, rtol=0, atol=0)


def test_topk_of_lines_in_order():
    """Every element beats all before it, or none does."""
    for x in (torch.arange(20000.0), torch.arange(20000.0).flip(0), torch.zeros(20000)):
        for k in (1, 50, 3000):
            for largest in (False, True):
                got = x.to("accel").topk(k, 0, largest)
                for g, e in zip(got, expected_places(x, 0, k, largest), strict=True):
                    assert_equal(g, e)


@pytest.mark.parametrize("dtype", RANKED, ids=str)
@pytest.mark.parametrize("shape", RANKED_SHAPES, ids=str)
def test_kthvalue_and_medians(shape, dtype):
    clean, x = values(shape, dtype), mixed(shape, dtype)
    for y in (clean, x):
        assert_as_on_cpu(lambda y: (y.median(), y.nanmedian()), y, rtol=0, atol=0)
        for dim in range(-1, max(len(shape), 1) - 1):
            length = y.size(dim) if y.dim() else 1
            for keepdim in (False, True):
                for function in (torch.median, torch.nanmedian):
                    assert_as_on_cpu(
                        lambda y, f=function, d=dim, k=keepdim: f(y, d, k).values, y,
                        rtol=0, atol=0,
                    )  # fmt: skip
                for k in {1, (length + 1) // 2, length}:
                    assert_as_on_cpu(
                        lambda y, k=k, d=dim, keep=keepdim: y.kthvalue(k, d, keep).values, y,
                        rtol=0, atol=0,
                    )  # fmt: skip
            k = (length + 1) // 2
            ordered = sorted_stably(y, dim, False).indices
            if y.dim():
                ordered = ordered.select(dim, k - 1)
            assert_equal(y.to("accel").kthvalue(k, dim).indices, ordered)


def test_a_median_with_nan_names_the_first():
    x = torch.randn(5, 3000)
    x[:, 77] = x[:, 1234] = float("nan")
    result = x.to("accel").median(1)
    assert result.values.isnan().all() and result.indices.tolist() == [77] * 5
    nothing = torch.full((2, 5), float("nan"), device="accel").nanmedian(1)
    assert nothing.values.isnan().all() and nothing.indices.tolist() == [0, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_gradients(dtype):
    x = torch.randperm(6 * 50).reshape(6, 50).to(dtype)  # no ties
    for function in [
        lambda x: x.sort(1).values,
        lambda x: x.topk(7, 0 if x.size(0) > 7 else 1).values,
        lambda x: x.kthvalue(3, 0).values,
        lambda x: x.median(1).values,
        lambda x: x.nanmedian(0, keepdim=True).values,
        lambda x: x.median(),
        lambda x: x.msort(),
    ]:
        assert_as_on_cpu(function, x, backward=True)


@given(data=st.data())
def test_any_shape_stride_and_dtype(data):
    shape = data.draw(st.lists(st.integers(1, 30), min_size=1, max_size=3))
    dtype = data.draw(st.sampled_from(ALL))
    steps = [data.draw(st.sampled_from([1, 1, 2, 3])) for _ in shape]
    order = data.draw(st.permutations(range(len(shape))))
    dim = data.draw(st.integers(-len(shape), len(shape) - 1))
    descending = data.draw(st.booleans())
    whole = mixed([n * s for n, s in zip(shape, steps, strict=True)], dtype)

    def view(x: torch.Tensor) -> torch.Tensor:
        return x[tuple(slice(None, None, s) for s in steps)].permute(order)

    x, y = view(whole), view(whole.to("accel"))
    for g, e in zip(
        sorted_stably(y, dim, descending), sorted_stably(x, dim, descending), strict=True
    ):
        assert_equal(g, e)
    if dtype != torch.bool:
        k = data.draw(st.integers(0, x.size(dim)))
        for g, e in zip(
            y.topk(k, dim, descending), expected_places(x, dim, k, descending), strict=True
        ):
            assert_equal(g, e)


def test_out():
    x = values((6, 40))
    y = x.to("accel")
    for function in [
        lambda x, **out: torch.sort(x, dim=0, stable=True, **out),
        lambda x, **out: torch.topk(x, 3, **out),
        lambda x, **out: torch.kthvalue(x, 3, **out),
        lambda x, **out: torch.median(x, 1, **out),
    ]:
        kept, places = torch.empty(0, device="accel"), torch.empty(0, device="accel").long()
        function(y, out=(kept, places))
        expected = function(x)
        assert_equal(kept, expected.values)
        assert_equal(places, expected.indices)
        wide = torch.zeros(*kept.shape, 2, device="accel")
        function(y, out=(wide[..., 1], places))
        assert_equal(wide[..., 1], expected.values)
        assert not wide[..., 0].any()
    torch.sort(y, 1, out=(y, places.resize_(0)))  # over the input
    assert_equal(y, x.sort(1).values)


def test_they_are_native(counted):
    x = values((40, 60)).to("accel")

    def use():
        x.sort(), x.sort(0, True), x.argsort(1), x.msort()
        x.topk(3), x.kthvalue(3, 0), x.median(1), x.nanmedian(0), x.median()

    natively(counted, use)


BAD = {
    "dimension": lambda d: torch.ones(3, 4, device=d).sort(2),
    "k of topk": lambda d: torch.ones(3, 4, device=d).topk(5),
    "negative k of topk": lambda d: torch.ones(3, 4, device=d).topk(-1),
    "dimension of topk": lambda d: torch.ones(3, 4, device=d).topk(1, 2),
    "k of kthvalue": lambda d: torch.ones(3, 4, device=d).kthvalue(5),
    "k of nothing": lambda d: torch.ones(3, 4, device=d).kthvalue(0),
    "dimension of kthvalue": lambda d: torch.ones(3, 4, device=d).kthvalue(1, 2),
    "kthvalue of empty lines": lambda d: torch.ones(3, 0, device=d).kthvalue(1),
    "median of empty lines": lambda d: torch.ones(3, 0, device=d).median(1),
    "dimension of median": lambda d: torch.ones(3, 4, device=d).median(2),
    "values of another dtype": lambda d: torch.sort(
        torch.ones(4, device=d), out=(torch.ones(4, device=d).double(), torch.ones(4).long().to(d))
    ),
    "places of another dtype": lambda d: torch.topk(
        torch.ones(4, device=d), 2, out=(torch.ones(2, device=d), torch.ones(2, device=d))
    ),
    "values over themselves": lambda d: torch.sort(
        torch.ones(3, device=d), out=(torch.ones(1, device=d).expand(3), torch.ones(3).long().to(d))
    ),
    "places over themselves": lambda d: torch.median(
        torch.ones(3, 2, device=d), 1,
        out=(torch.ones(3, device=d), torch.ones(1).long().to(d).expand(3)),
    ),
}  # fmt: skip

# What the CPU's kernels raise, with a word of where.
REFUSED = {
    "topk of bool": lambda d: torch.ones(4, device=d, dtype=torch.bool).topk(1),
    "complex": lambda d: torch.ones(4, dtype=torch.complex64, device=d).sort(),
}


@pytest.mark.parametrize("name", [*BAD, *REFUSED])
def test_errors(name):
    assert_same_error({**BAD, **REFUSED}[name], message=name in BAD)
