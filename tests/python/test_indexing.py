"""Gather, scatter, index_*, advanced indexing, take and put against the CPU."""

import math

import pytest
import torch
from compare import (
    FLOATING,
    INTEGER,
    LAYOUTS,
    assert_as_on_cpu,
    assert_same_error,
    natively,
    values,
)
from hypothesis import given
from hypothesis import strategies as st

DTYPES = [*FLOATING, *INTEGER, torch.bool, torch.complex64]
REDUCTIONS = ["sum", "prod", "mean", "amax", "amin"]


def whole(shape, dtype=torch.float32):
    """Values whose sums are exact in every dtype, whatever their order."""
    return torch.randint(0, 2 if dtype == torch.bool else 3, shape).to(dtype)


@st.composite
def shapes(draw, least=0):
    """A target's sizes and one of its dimensions."""
    sizes = draw(st.lists(st.integers(1, 9), min_size=1, max_size=4))
    dim = draw(st.integers(0, len(sizes) - 1))
    return sizes, dim, draw(st.integers(least, 2 * sizes[dim]))


@st.composite
def layouts(draw):
    return LAYOUTS[draw(st.sampled_from(list(LAYOUTS)))]


def index_like(sizes, dim, count, bound):
    sizes = list(sizes)
    sizes[dim] = count
    return torch.randint(0, bound, sizes)


# ---- the CPU's results ----


@given(shapes(), layouts(), layouts(), st.sampled_from(DTYPES))
def test_gather(shape, lay_out, lay_index, dtype):
    sizes, dim, count = shape
    index = index_like(sizes, dim, count, sizes[dim])
    assert_as_on_cpu(
        lambda x, i: lay_out(x).gather(dim, lay_index(i)), values(sizes, dtype), index,
        backward=dtype in (torch.float32, torch.float64),
    )  # fmt: skip


@given(shapes(), layouts(), st.sampled_from(DTYPES), st.sampled_from([torch.int64, torch.int32]))
def test_index_select(shape, lay_out, dtype, index_dtype):
    sizes, dim, count = shape
    index = torch.randint(0, sizes[dim], (count,)).to(index_dtype)
    assert_as_on_cpu(
        lambda x, i: lay_out(x).index_select(dim, i), values(sizes, dtype), index,
        backward=dtype in (torch.float32, torch.float64),
    )  # fmt: skip


@given(shapes(least=1), layouts(), layouts(), st.booleans())
def test_scatter_without_duplicates(shape, lay_out, lay_source, by_value):
    sizes, dim, _ = shape
    index = torch.rand(sizes).argsort(dim)

    def scatter(x, i, s):
        x = lay_out(x.clone())
        return x.scatter_(dim, i, 5.0) if by_value else x.scatter_(dim, i, lay_source(s))

    assert_as_on_cpu(scatter, values(sizes), index, values(sizes))
    assert_as_on_cpu(
        lambda x, i, s: x.scatter(dim, i, s), values(sizes), index, values(sizes), backward=True
    )


@given(shapes(), layouts(), layouts(), st.sampled_from(DTYPES))
def test_scatter_add(shape, lay_out, lay_source, dtype):
    sizes, dim, count = shape
    index = index_like(sizes, dim, count, sizes[dim])
    assert_as_on_cpu(
        lambda x, i, s: lay_out(x.clone()).scatter_add_(dim, i, lay_source(s)), whole(sizes, dtype),
        index, whole(index.shape, dtype),
    )  # fmt: skip


@given(
    shapes(), layouts(), st.sampled_from(REDUCTIONS), st.booleans(),
    st.sampled_from([*FLOATING, *INTEGER]),
)  # fmt: skip
def test_scatter_reduce(shape, lay_source, reduce, include_self, dtype):
    sizes, dim, count = shape
    index = index_like(sizes, dim, count, sizes[dim])
    assert_as_on_cpu(
        lambda x, i, s: x.scatter_reduce(dim, i, lay_source(s), reduce, include_self=include_self),
        whole(sizes, dtype), index, whole(index.shape, dtype),
    )  # fmt: skip


@pytest.mark.parametrize("include_self", [True, False])
@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_scatter_reduce_backward_and_nan(reduce, include_self):
    index = torch.randint(0, 5, (8, 7))
    assert_as_on_cpu(
        lambda x, s: x.scatter_reduce(
            0, index.to(x.device), s, reduce, include_self=include_self
        ),
        torch.randn(5, 7), torch.randn(8, 7), backward=True,
    )  # fmt: skip
    source = torch.randn(8, 7)
    source[3] = math.nan
    assert_as_on_cpu(
        lambda x, s: x.scatter_reduce(
            0, index.to(x.device), s, reduce, include_self=include_self
        ),
        torch.randn(5, 7), source,
    )  # fmt: skip


@given(shapes(), layouts(), layouts(), st.sampled_from(DTYPES), st.sampled_from([1, 2]))
def test_index_add(shape, lay_out, lay_source, dtype, alpha):
    sizes, dim, count = shape
    index = torch.randint(0, sizes[dim], (count,))
    source = whole(index_like(sizes, dim, count, 1).shape, dtype)
    if dtype == torch.bool:
        alpha = True
    assert_as_on_cpu(
        lambda x, i, s: lay_out(x.clone()).index_add_(dim, i, lay_source(s), alpha=alpha),
        whole(sizes, dtype), index, source,
    )  # fmt: skip


@given(shapes(), layouts(), st.sampled_from(DTYPES))
def test_index_copy_and_fill(shape, lay_out, dtype):
    sizes, dim, _ = shape
    index = torch.randperm(sizes[dim])[: sizes[dim] // 2 + 1]
    source = values(index_like(sizes, dim, len(index), 1).shape, dtype)
    assert_as_on_cpu(
        lambda x, i, s: lay_out(x.clone()).index_copy_(dim, i, s),
        values(sizes, dtype),
        index,
        source,
    )
    assert_as_on_cpu(
        lambda x, i: lay_out(x.clone()).index_fill_(dim, i - x.shape[dim], 1),
        values(sizes, dtype), index,
    )  # fmt: skip
    assert_as_on_cpu(
        lambda x, i, v: x.index_fill(dim, i, v), values(sizes, dtype), index, values((), dtype)
    )


@st.composite
def subscripts(draw):
    """A target's sizes and an index expression: integer tensors that broadcast, slices, gaps."""
    sizes = draw(st.lists(st.integers(1, 7), min_size=1, max_size=4))
    broadcast = draw(st.sampled_from([(), (4,), (3, 4), (0,)]))
    parts = []
    for size in draw(st.permutations(sizes)) and sizes:
        if draw(st.booleans()):
            shape = draw(st.sampled_from([broadcast, broadcast[-1:], tuple(1 for _ in broadcast)]))
            parts.append(torch.randint(-size, size, shape))
        else:
            parts.append(slice(None))
    if all(isinstance(part, slice) for part in parts):
        parts[0] = torch.randint(-sizes[0], sizes[0], broadcast)
    return sizes, parts


def on(device, parts):
    return tuple(part.to(device) if torch.is_tensor(part) else part for part in parts)


@given(subscripts(), layouts(), st.sampled_from(DTYPES))
def test_advanced_indexing(subscript, lay_out, dtype):
    sizes, parts = subscript
    assert_as_on_cpu(
        lambda x: lay_out(x)[on(x.device, parts)], values(sizes, dtype),
        backward=dtype in (torch.float32, torch.float64),
    )  # fmt: skip


@given(subscripts(), layouts(), st.sampled_from(DTYPES), st.booleans())
def test_index_put_accumulates(subscript, lay_out, dtype, is_scalar):
    sizes, parts = subscript
    source = whole((), dtype) if is_scalar else whole(whole(sizes)[tuple(parts)].shape, dtype)
    tensors = [part if torch.is_tensor(part) else None for part in parts]
    if any(part is None for part in tensors):
        # Tensor.index_put_ takes no gaps from Python.
        def put(x, s):
            x = lay_out(x.clone())
            torch.ops.aten.index_put_(
                x, [t if t is None else t.to(x.device) for t in tensors], s, True
            )
            return x
    else:

        def put(x, s):
            return lay_out(x.clone()).index_put_(on(x.device, parts), s, accumulate=True)

    assert_as_on_cpu(put, whole(sizes, dtype), source)


@given(subscripts(), layouts(), st.sampled_from(DTYPES))
def test_assignment_of_one_value(subscript, lay_out, dtype):
    sizes, parts = subscript

    def assign(x, v):
        x = lay_out(x.clone())
        x[on(x.device, parts)] = v
        return x

    assert_as_on_cpu(assign, values(sizes, dtype), values((), dtype))


def test_assignment_of_many_values():
    rows = torch.randperm(20)[:7]

    def assign(x, v):
        x = x.clone()
        x[rows.to(x.device)] = v
        x[:, 1, rows.to(x.device) % 5] = 2.0
        return x

    assert_as_on_cpu(assign, values((20, 3, 5)), values((7, 3, 5)))
    assert_as_on_cpu(assign, values((20, 3, 5)), values((3, 1)), backward=True)


def test_masks():
    mask = torch.rand(6, 5) > 0.5
    assert_as_on_cpu(lambda x: x[mask.to(x.device)], values((6, 5, 2)), backward=True)

    def assign(x, v):
        x = x.clone()
        x[mask.to(x.device)] = 3.0
        x[mask[0].to(x.device).nonzero()[:, 0]] = v
        return x

    assert_as_on_cpu(assign, values((6, 5)), values((5,)))


@given(shapes(), layouts(), st.sampled_from(DTYPES))
def test_take_and_put(shape, lay_out, dtype):
    sizes, _, _ = shape
    elements = math.prod(sizes)
    index = torch.randperm(elements)[: elements // 2 + 1] - elements // 2
    assert_as_on_cpu(
        lambda x, i: lay_out(x).take(i), values(sizes, dtype), index,
        backward=dtype in (torch.float32, torch.float64),
    )  # fmt: skip
    assert_as_on_cpu(
        lambda x, i, s: lay_out(x.clone()).put_(i, s), values(sizes, dtype), index,
        values(index.shape, dtype),
    )  # fmt: skip
    assert_as_on_cpu(
        lambda x, i, s: lay_out(x.clone()).put_(i, s, accumulate=True), whole(sizes, dtype),
        index % elements // 2, whole(index.shape, dtype),
    )  # fmt: skip


def test_without_dimensions():
    zero = torch.tensor(0)
    assert_as_on_cpu(lambda x, i: x.gather(0, i), values(()), zero)
    assert_as_on_cpu(lambda x, i: x.gather(0, i), values((3,)), zero)
    assert_as_on_cpu(lambda x, i: x.index_select(0, i), values(()), zero)
    assert_as_on_cpu(lambda x, i, s: x.scatter_add(0, i, s), values(()), zero, values(()))
    assert_as_on_cpu(lambda x, i, s: x.index_add(0, i, s), values(()), zero, values(()))
    assert_as_on_cpu(lambda x, i, s: x.index_copy(0, i, s), values((3,)), zero, values(()))
    assert_as_on_cpu(lambda x, i: x.index_fill(0, i, 2.0), values(()), zero)


def test_nothing_to_do():
    nothing = torch.zeros(0, dtype=torch.int64)
    for op in [
        lambda x, i: x.index_select(1, i),
        lambda x, i: x[i],
        lambda x, i: x.take(i),
        lambda x, i: x.gather(0, i.view(0, 1)),
        lambda x, i: x.index_add(0, i, x[:0]),
        lambda x, i: x.index_fill(0, i, 1.0),
        lambda x, i: x.index_put((i,), x[:0]),
        lambda x, i: x.scatter_add(0, i.view(0, 1), x),
        lambda x, i: x[:0].index_select(1, i),
    ]:
        assert_as_on_cpu(op, values((4, 3)), nothing)


def test_out_arguments():
    x, index = torch.randn(6, 5).to("accel"), torch.randint(0, 6, (4, 5)).to("accel")
    for call in [
        lambda out: torch.gather(x, 0, index, out=out),
        lambda out: torch.index_select(x, 0, index[:, 0], out=out),
        lambda out: torch.take(x, index, out=out),
        lambda out: torch.scatter_add(x, 0, index, x, out=out),
    ]:
        expected = call(torch.empty(0, device="accel"))
        strided = torch.zeros(*expected.shape, 2, device="accel")[..., 1]
        assert call(strided) is strided
        assert torch.equal(strided, expected)
    with pytest.raises(RuntimeError, match="single memory location"):
        torch.gather(x, 0, index, out=x[:4])


# ---- sizes that are cut, sorted and shared out ----

LARGE = {
    "rows": lambda x, i, s: x.index_add(0, i, s),
    "rows kept": lambda x, i, s: x.index_put((i,), s),
    "elements": lambda x, i, s: x.view(-1).scatter_add(0, i.repeat_interleave(64), s.view(-1)),
    "columns": lambda x, i, s: x.t().contiguous().index_add(1, i, s.t()),
    "along rows": lambda x, i, s: (
        x.scatter_add(1, (i[:, None] + i[None, :64]) % 64, s) if len(i) <= len(x) else x
    ),
    "mean": lambda x, i, s: x.scatter_reduce(0, i[:, None].expand_as(s), s, "mean"),
    "without self": lambda x, i, s: x.scatter_reduce(
        0, i[:, None].expand_as(s), s, "prod", include_self=False
    ),
    "selected": lambda x, i, s: x[i] + s,
    "gathered": lambda x, i, s: x.gather(0, i[:, None].expand_as(s)) + s,
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", LARGE)
def test_large(name, dtype):
    index = torch.randint(0, 5000, (5000,))
    if name == "rows kept":
        index = torch.randperm(5000)
    x, source = whole((5000, 64), dtype), whole((5000, 64), dtype)
    assert_as_on_cpu(LARGE[name], x, index, source)


def test_the_same_bits_for_any_number_of_threads(run_python):
    code = f"""
        import sys, torch
        sys.path.insert(0, {__file__.rsplit("/", 1)[0]!r})
        from test_indexing import LARGE
        torch.manual_seed(1)
        index = torch.randint(0, 300, (5000,)).to("accel")
        x, source = torch.randn(5000, 64).to("accel"), torch.randn(5000, 64).to("accel")
        for name, op in LARGE.items():
            for dtype in (torch.float32, torch.bfloat16):
                y = op(x.to(dtype), index, source.to(dtype)).cpu()
                print(name, hash(y.view(torch.uint8).numpy().tobytes()))
        """
    one = run_python(code, OMP_NUM_THREADS="1", PYTHONHASHSEED="0")
    two = run_python(code, OMP_NUM_THREADS="2", PYTHONHASHSEED="0")
    alone = run_python(code, OMP_NUM_THREADS="2", PYTHONHASHSEED="0", ACCEL_FUSION="0")
    assert one == two == alone


@pytest.mark.parametrize("rows", [1, 64])
def test_of_several_values_for_one_place_the_last_stays(rows):
    index = torch.randint(0, 50, (20_000,))
    source = torch.arange(20_000.0)[:, None].expand(20_000, rows).contiguous()
    expected = torch.zeros(50, rows)
    for i, row in zip(index.tolist(), source, strict=True):
        expected[i] = row
    x = torch.zeros(50, rows, device="accel")
    full = index[:, None].expand(20_000, rows).contiguous()
    assert torch.equal(x.index_put((index.to("accel"),), source.to("accel")).cpu(), expected)
    assert torch.equal(x.index_copy(0, index.to("accel"), source.to("accel")).cpu(), expected)
    assert torch.equal(x.scatter(0, full.to("accel"), source.to("accel")).cpu(), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_sums_are_added_in_fp32_and_rounded_once(dtype):
    index, source = torch.randint(0, 20, (5000,)), torch.randn(5000, 33).to(dtype)
    exact = torch.zeros(20, 33, dtype=torch.float64).index_add_(0, index, source.double())
    got = torch.zeros(20, 33, dtype=dtype, device="accel")
    got.index_add_(0, index.to("accel"), source.to("accel"))
    torch.testing.assert_close(got.cpu().double(), exact, rtol=torch.finfo(dtype).eps, atol=1e-3)


# ---- errors ----


def indexed(d, *positions):
    return torch.tensor(positions, device=d)


OUT_OF_RANGE = {
    "gather": lambda x, i: x.gather(0, i[:, None]),
    "index_select": lambda x, i: x.index_select(0, i),
    "index": lambda x, i: x[i],
    "take": lambda x, i: x.take(i * 5),
    "scatter": lambda x, i: x.scatter_(0, i[:, None], 7.0),
    "scatter_add": lambda x, i: x.scatter_add_(0, i[:, None], x.clone()),
    "scatter_reduce": lambda x, i: x.scatter_reduce_(0, i[:, None], x.clone(), "amax"),
    "index_add": lambda x, i: x.index_add_(0, i, x[:2].clone()),
    "index_copy": lambda x, i: x.index_copy_(0, i, x[:2].clone()),
    "index_fill": lambda x, i: x.index_fill_(0, i, 7.0),
    "index_put": lambda x, i: x.index_put_((i,), torch.ones(5, device=x.device)),
    "put": lambda x, i: x.put_(i * 5, torch.ones(2, device=x.device)),
}


@pytest.mark.parametrize("bad", [4, -5, 1 << 40, -(1 << 62)])
@pytest.mark.parametrize("name", OUT_OF_RANGE)
def test_an_index_out_of_range_is_raised_at_the_next_wait_and_harms_nothing(name, bad):
    memory = torch.full((3, 4, 5), 3.0, device="accel")
    index = torch.tensor([1, bad], device="accel")
    torch.accel.synchronize()
    with pytest.raises((IndexError, RuntimeError), match="is out of range") as caught:
        OUT_OF_RANGE[name](memory[1], index)
        torch.accel.synchronize()
    assert f"(in {name} on accel)" in str(caught.value)
    assert memory[0].eq(3).all() and memory[2].eq(3).all()
    with pytest.raises((IndexError, RuntimeError)) as cpu:
        OUT_OF_RANGE[name](torch.ones(4, 5), index.cpu())
    if name != "index_add":  # of two kernels, one says RuntimeError
        assert type(caught.value) is type(cpu.value)


def test_negative_indices_wrap_where_the_cpu_s_do():
    x, index = torch.arange(10.0), torch.tensor([-1, -10, 3])
    for op in [
        lambda x, i: x[i],
        lambda x, i: x.take(i),
        lambda x, i: x.index_fill(0, i, 1.0),
        lambda x, i: x.index_put((i,), x[:3]),
        lambda x, i: x.put(i, x[:3]),
    ]:
        assert_as_on_cpu(op, x, index)
    for op in [
        lambda x, i: x.gather(0, i),
        lambda x, i: x.index_select(0, i),
        lambda x, i: x.scatter(0, i, 1.0),
        lambda x, i: x.index_copy(0, i, x[:3]),
    ]:
        for device in ("cpu", "accel"):
            with pytest.raises((IndexError, RuntimeError), match=r"out of|INDICES"):
                op(x.to(device), index.to(device))
                torch.accel.synchronize()


BAD_CALLS = {
    "gather of other dims": lambda d: torch.ones(3, 2, device=d).gather(0, indexed(d, 0)),
    "gather by floats": lambda d: torch.ones(3, device=d).gather(0, torch.ones(1, device=d)),
    "gather beyond": lambda d: torch.ones(3, device=d).gather(1, indexed(d, 0)),
    "gather wider": lambda d: torch.ones(2, 2, device=d).gather(0, indexed(d, [0, 0, 0])),
    "select by matrix": lambda d: torch.ones(3, device=d).index_select(0, indexed(d, [0])),
    "select by floats": lambda d: torch.ones(3, device=d).index_select(
        0, torch.ones(1, device=d)
    ),
    "scatter of another dtype": lambda d: torch.ones(3, device=d).scatter(
        0, indexed(d, 0), indexed(d, 1)
    ),
    "scatter from less": lambda d: torch.ones(3, device=d).scatter(
        0, indexed(d, 0, 1), torch.ones(1, device=d)
    ),
    "unknown reduction": lambda d: torch.ones(3, device=d).scatter_reduce(
        0, indexed(d, 0), torch.ones(1, device=d), "median"
    ),
    "scatter into expanded": lambda d: torch.ones(1, device=d)
    .expand(3)
    .scatter_(0, indexed(d, 0), 1.0),
    "index_add of other sizes": lambda d: torch.ones(3, 2, device=d).index_add(
        0, indexed(d, 0), torch.ones(1, 3, device=d)
    ),
    "index_copy of other counts": lambda d: torch.ones(3, 2, device=d).index_copy(
        0, indexed(d, 0, 1), torch.ones(1, 2, device=d)
    ),
    "fill by int32": lambda d: torch.ones(3, device=d).index_fill(0, indexed(d, 0).int(), 1.0),
    "fill with a vector": lambda d: torch.ones(3, device=d).index_fill(
        0, indexed(d, 0), torch.ones(2, device=d)
    ),
    "index by floats": lambda d: torch.ones(3, device=d)[torch.ones(1, device=d)],
    "indices that do not broadcast": lambda d: torch.ones(3, 3, device=d)[
        indexed(d, 0, 1), indexed(d, 0, 1, 2)
    ],
    "put that does not broadcast": lambda d: torch.ones(3, 2, device=d).index_put_(
        (indexed(d, 0),), torch.ones(3, device=d)
    ),
    "put of another dtype": lambda d: torch.ones(3, device=d).index_put_(
        (indexed(d, 0),), indexed(d, 1)
    ),
    "take by int32": lambda d: torch.ones(3, device=d).take(indexed(d, 0).int()),
    "take from nothing": lambda d: torch.ones(0, device=d).take(indexed(d, 0)),
    "put into nothing": lambda d: torch.ones(0, device=d).put_(
        indexed(d, 0), torch.ones(1, device=d)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_CALLS)
def test_errors_are_the_cpu_s(name):
    assert_same_error(BAD_CALLS[name])


def test_other_devices_are_an_error():
    x, index = torch.ones(3, device="accel"), torch.tensor([1])
    for call in [
        lambda: x.gather(0, index),
        lambda: x.index_select(0, index),
        lambda: x.scatter(0, index.to("accel"), torch.ones(1)),
        lambda: x.index_put_((index.to("accel"),), torch.ones(1)),
    ]:
        with pytest.raises(RuntimeError, match="same device"):
            call()
    assert x[index].tolist() == [1]  # a list of positions may come from the CPU
    for moved in (index.to("accel"), torch.tensor([True, False, True], device="accel")):
        with pytest.raises(RuntimeError, match="same device as the indexed tensor"):
            torch.ones(3)[moved]
    with pytest.raises(RuntimeError, match="same device"):
        torch.cat([x, x], out=torch.empty(0))


# ---- recording ----


def test_indexing_is_recorded(counted):
    x = torch.randn(20, 33).to("accel").requires_grad_()
    rows = torch.randint(0, 20, (40,)).to("accel")
    full = torch.randint(0, 20, (40, 33)).to("accel")
    source = torch.randn(40, 33).to("accel").requires_grad_()
    torch.accel.synchronize()
    for op in [
        lambda: x.gather(0, full),
        lambda: x.index_select(0, rows),
        lambda: x[rows],
        lambda: x[rows, rows],
        lambda: x.take(full),
        lambda: x.scatter_add(0, full, source),
        lambda: x.index_add(0, rows, source),
        lambda: x.index_put((rows,), source, accumulate=True),
        lambda: x.scatter(0, full[:20], 2.0),
    ]:
        natively(counted, lambda op=op: op().sum().backward())
