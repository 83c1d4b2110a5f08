"""Places in sorted sequences, counts and what else goes by value, against the CPU."""

import pytest
import torch
from compare import INTEGER, LAYOUTS, assert_as_on_cpu, assert_same_error, mixed, natively, values
from hypothesis import given, settings
from hypothesis import strategies as st

SORTABLE = [torch.float32, torch.bfloat16, torch.float16, torch.float64, *INTEGER]


@pytest.mark.parametrize("dtype", SORTABLE, ids=str)
@pytest.mark.parametrize("right", [False, True])
@pytest.mark.parametrize("out_int32", [False, True])
def test_searchsorted_and_bucketize(dtype, right, out_int32):
    options = {"right": right, "out_int32": out_int32}
    rows = values((3, 40), dtype).sort().values
    for count in (0, 1, 5, 300):
        sought = values((3, count), dtype)
        assert_as_on_cpu(lambda s, v: torch.searchsorted(s, v, **options), rows, sought)
        assert_as_on_cpu(lambda s, v: torch.bucketize(v, s, **options), rows[0], sought)
    assert_as_on_cpu(lambda s: torch.searchsorted(s, 2, **options), rows[0])
    assert_as_on_cpu(lambda s: torch.searchsorted(s, s.new_zeros(3, 2), **options), rows[:, :0])


def test_searchsorted_of_other_layouts_dtypes_and_orders():
    rows = torch.randn(4, 9)
    assert_as_on_cpu(
        lambda s, v: torch.searchsorted(s, v, sorter=s.argsort(), side="right"),
        rows, torch.randn(4, 3),
    )  # fmt: skip
    assert_as_on_cpu(
        lambda s, v: torch.searchsorted(s.t().contiguous().t(), v.t()),
        rows.sort().values, torch.randn(3, 4),
    )  # fmt: skip
    assert_as_on_cpu(torch.searchsorted, torch.arange(5), torch.tensor([0.5, 3.0, 7.5]))
    out = torch.empty(3, 4, dtype=torch.int64, device="accel").t()
    torch.searchsorted(rows.sort().values.to("accel"), torch.zeros(4, 3, device="accel"), out=out)
    expected = torch.searchsorted(rows.sort().values, torch.zeros(4, 3))
    assert torch.equal(out.cpu(), expected)


def test_searchsorted_errors():
    def call(change):
        def on(device):
            sequence = torch.arange(6.0, device=device).view(2, 3)
            change(sequence, torch.ones(2, 2, device=device))

        return on

    for change in [
        lambda s, v: torch.searchsorted(s, v[:1]),
        lambda s, v: torch.searchsorted(s, v, side="up"),
        lambda s, v: torch.searchsorted(s, v, right=True, side="left"),
        lambda s, v: torch.searchsorted(s, v, sorter=torch.ones_like(s)),
        lambda s, v: torch.searchsorted(s, v, sorter=torch.full_like(s, 3).long()),
        lambda s, v: torch.searchsorted(s > 1, v > 1),
        lambda s, v: torch.bucketize(v, s),
    ]:
        assert_same_error(call(change), message=False)


@settings(deadline=None, max_examples=40)
@given(
    repeats=st.lists(st.integers(0, 7), max_size=30),
    dtype=st.sampled_from([torch.int32, torch.int64]),
    sized=st.booleans(),
)
def test_repeat_interleave(repeats, dtype, sized):
    size = sum(repeats) if sized else None
    repeats = torch.tensor(repeats, dtype=dtype)
    assert_as_on_cpu(lambda r: torch.repeat_interleave(r, output_size=size), repeats)
    assert_as_on_cpu(
        lambda x, r: x.repeat_interleave(r, dim=0, output_size=size),
        torch.randn(len(repeats), 3), repeats, backward=True,
    )  # fmt: skip


def test_repeat_interleave_waits_once_or_not_at_all(counted):
    repeats = torch.tensor([3, 0, 2], device="accel")
    torch.accel.synchronize()
    natively(counted, lambda: torch.repeat_interleave(repeats, output_size=5))
    assert_reads_once(counted, lambda: torch.repeat_interleave(repeats))


def assert_reads_once(counted, function):
    """The host asks for one value of the device; whether it has to wait is a matter of timing."""
    torch.accel.reset_counters()
    with counted() as change:
        function()
    assert sum(torch.accel.report()["read"].values()) == 1
    assert change["waits"] <= 1
    assert change["fallbacks"] == change["host_ops"] == 0


@pytest.mark.parametrize("size", [None, 4, 3])
def test_repeat_interleave_errors(size):
    assert_same_error(
        lambda device: torch.repeat_interleave(
            torch.tensor([3, -1, 2] if size != 3 else [3, 1], device=device), output_size=size
        ),
        message=size is None,
    )


@pytest.mark.parametrize("dtype", SORTABLE, ids=str)
@pytest.mark.parametrize("invert", [False, True])
def test_isin(dtype, invert):
    for count in (0, 1, 3, 200):
        assert_as_on_cpu(
            lambda x, y: torch.isin(x, y, invert=invert), mixed((20, 30), dtype),
            mixed((count,), dtype),
        )  # fmt: skip


def test_isin_knows_infinity_from_nan():
    nan, infinity = float("nan"), float("inf")
    elements = torch.tensor([1.0, nan, infinity, -infinity])
    for others in ([1.0, nan, nan, nan], [nan], [infinity, nan], [-infinity, 1.0]):
        assert_as_on_cpu(torch.isin, elements, torch.tensor(others))


@settings(deadline=None, max_examples=40)
@given(
    shape=st.lists(st.integers(0, 6), max_size=3),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.int64, torch.bool]),
    spare=st.integers(0, 3),
    broadcast=st.booleans(),
    layout=st.sampled_from(list(LAYOUTS)),
)
def test_masked_scatter(shape, dtype, spare, broadcast, layout):
    x, mask = values(shape, dtype), torch.rand(shape[1:] if broadcast else shape) > 0.5
    count = int(mask.expand(shape).sum())
    assert_as_on_cpu(
        lambda x, source: x.masked_scatter(mask.to(x.device), source), x,
        values((count + spare,), dtype), layout=layout, backward=True,
    )  # fmt: skip


def test_the_gradient_of_masked_select_waits_for_nothing(counted):
    x = torch.randn(40, 30, device="accel", requires_grad=True)
    mask = x.detach() > 0
    chosen = x.masked_select(mask)
    # The first run of a host op is waited for.
    torch.autograd.grad(chosen, x, torch.ones_like(chosen), retain_graph=True)
    torch.accel.synchronize()
    with counted() as change:
        chosen.backward(torch.ones_like(chosen))
    assert change["waits"] == change["fallbacks"] == 0
    assert torch.equal(x.grad.cpu(), mask.float().cpu())


def test_masked_scatter_from_too_few():
    def call(device):
        x = torch.zeros(5, device=device)
        x.masked_scatter_(x == 0, torch.ones(4, device=device))

    assert_same_error(call, message=False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_histc(dtype, counted):
    x = mixed((5000,), dtype)
    for bins, low, high in [(10, -2, 2), (100, -1, 0.3), (1, 0, 1), (7, 5, 9)]:
        assert_as_on_cpu(lambda x: torch.histc(x, bins, low, high), x)  # noqa: B023
    assert_as_on_cpu(lambda x: torch.histc(x, 20), values((3, 40), dtype))
    on_device = x.to("accel")
    torch.accel.synchronize()
    natively(counted, lambda: torch.histc(on_device, 10, -2, 2))


def test_histc_of_whole_numbers_counts_them():
    experts = torch.randint(0, 8, (300,))
    counts = torch.histc(experts.to("accel"), bins=8, min=0, max=7)
    assert torch.equal(counts.cpu(), torch.bincount(experts, minlength=8))


@pytest.mark.parametrize("dtype", INTEGER, ids=str)
def test_bincount(dtype):
    x = torch.randint(0, 20, (1000,)).to(dtype)
    assert_as_on_cpu(torch.bincount, x)
    assert_as_on_cpu(lambda x: torch.bincount(x, minlength=50), x)
    for weights in (torch.rand(1000), torch.rand(1000).double(), torch.randint(0, 9, (1000,))):
        assert_as_on_cpu(torch.bincount, x, weights)


def test_bincount_waits_once(counted):
    x = torch.randint(0, 20, (1000,), device="accel")
    torch.accel.synchronize()
    assert_reads_once(counted, lambda: torch.bincount(x))


def test_bincount_errors():
    for change in [
        lambda x: torch.bincount(x - 1),
        lambda x: torch.bincount(x.view(2, 2)),
        lambda x: torch.bincount(x.float()),
        lambda x: torch.bincount(x, minlength=-1),
        lambda x: torch.bincount(x, x[:2]),
    ]:
        assert_same_error(lambda device: change(torch.arange(4, device=device)))  # noqa: B023
