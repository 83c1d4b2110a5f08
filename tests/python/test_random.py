"""Random numbers: reproducible from a seed, distributed as asked, dropout, and errors."""

import math

import pytest
import torch
from compare import FLOATING, INTEGER, assert_same_error, natively
from scipy import stats
from torch.nn import functional

COUNT = 40_000


def sample(fill, dtype=torch.float32, count=COUNT):
    x = torch.empty(count, dtype=dtype, device="accel")
    fill(x)
    return x.cpu().double().numpy()


def assert_distributed(numbers, distribution, discretised: float = 0):
    """Kolmogorov and Smirnov's test; `discretised`: the width of steps that rounding makes."""
    distance = stats.kstest(numbers, distribution.cdf).statistic
    assert distance < 2 / math.sqrt(len(numbers)) + discretised


CONTINUOUS = {
    "uniform": (lambda x: x.uniform_(-1, 3), stats.uniform(-1, 4)),
    "normal": (lambda x: x.normal_(2, 3), stats.norm(2, 3)),
    "exponential": (lambda x: x.exponential_(2), stats.expon(scale=0.5)),
    "log_normal": (lambda x: x.log_normal_(0.5, 0.25), stats.lognorm(0.25, scale=math.exp(0.5))),
    "cauchy": (lambda x: x.cauchy_(1, 2), stats.cauchy(1, 2)),
}


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("name", CONTINUOUS)
def test_distributions(name, dtype):
    fill, distribution = CONTINUOUS[name]
    steps = {torch.bfloat16: 0.01, torch.float16: 0.002}.get(dtype, 0)
    assert_distributed(sample(fill, dtype), distribution, steps)


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
def test_uniform_numbers_stay_below_the_upper_bound(dtype):
    x = torch.rand(1 << 20, dtype=dtype, device="accel")
    assert x.min().item() >= 0 and x.max().item() < 1
    y = torch.empty(1 << 20, dtype=dtype, device="accel").uniform_(3, 3.5)
    assert y.min().item() >= 3 and y.max().item() < 3.5
    assert torch.empty(5, dtype=dtype, device="accel").uniform_(2, 2).tolist() == [2] * 5


def test_exponential_numbers_are_not_negative():
    x = torch.empty(1 << 20, device="accel").exponential_()
    assert x.min().item() >= 0 and x.isfinite().all().item()


def test_doubles_have_53_random_bits():
    x = torch.rand(1000, dtype=torch.float64, device="accel").cpu() * 2**53
    assert (x == x.floor()).all()
    assert ((x / 2**24) != (x / 2**24).floor()).sum() > 900


def test_geometric():
    x = sample(lambda x: x.geometric_(0.3))
    assert x.min() == 1 and (x == x.round()).all()
    for value in range(1, 6):
        expected = 0.3 * 0.7 ** (value - 1)
        assert abs((x == value).mean() - expected) < 5 * math.sqrt(expected / COUNT)


@pytest.mark.parametrize("dtype", [*INTEGER, *FLOATING], ids=str)
def test_whole_numbers_in_a_range(dtype):
    low = 0 if dtype == torch.uint8 else -3
    x = torch.randint(low, 8, (COUNT,), dtype=dtype, device="accel").cpu()
    counts = torch.bincount((x.double() - low).long(), minlength=8 - low)
    assert counts.numel() == 8 - low
    expected = COUNT / (8 - low)
    assert ((counts - expected).abs() < 6 * math.sqrt(expected)).all()


@pytest.mark.parametrize("dtype", [*INTEGER, torch.bool, *FLOATING], ids=str)
def test_whole_numbers_without_a_range(dtype):
    x = torch.empty(4096, dtype=dtype, device="accel").random_().cpu()
    largest = {
        torch.bool: 1, torch.float32: 2**24, torch.float64: 2**53, torch.bfloat16: 2**8,
        torch.float16: 2**11,
    }.get(dtype) or torch.iinfo(dtype).max  # fmt: skip
    assert x.double().min() >= 0 and x.double().max() <= largest
    assert x.double().max() > 0.98 * largest


@pytest.mark.parametrize(
    "bounds", [(-(2**62), 2**62), (-(2**63), None), (2**62, 2**63 - 1)], ids=str
)
def test_wide_ranges(bounds):
    low, high = bounds
    x = torch.empty(4096, dtype=torch.int64, device="accel").random_(low, high).cpu()
    high = 2**63 if high is None else high
    assert low <= x.min().item() and x.max().item() < high
    assert x.max().item() - x.min().item() > 0.99 * (high - low)


def test_bernoulli():
    for p in (0.0, 0.25, 1.0):
        for dtype in (torch.float32, torch.bool, torch.int64, torch.bfloat16):
            x = sample(lambda x, p=p: x.bernoulli_(p), dtype)
            assert set(x) <= {0.0, 1.0}
            assert abs(x.mean() - p) <= 5 * math.sqrt(p * (1 - p) / COUNT)
    p = torch.rand(50, 1, dtype=torch.float64)
    x = torch.bernoulli(p.expand(50, 2000).to("accel")).cpu()
    assert x.dtype == torch.float64
    assert ((x.mean(1) - p[:, 0]).abs() < 0.07).all()
    y = torch.empty(50, 2000, device="accel").bernoulli_(p.to("accel")).cpu()
    assert ((y.mean(1) - p[:, 0]).abs() < 0.07).all()
    out = torch.empty(0, device="accel")
    torch.bernoulli(torch.full((3, 4), 1.0, device="accel"), out=out)
    assert out.cpu().eq(1).all() and out.shape == (3, 4)


def test_normal_with_tensors_of_means_and_deviations():
    mean, std = torch.linspace(-5, 5, 20)[:, None], torch.linspace(0.1, 2, 20)[:, None]
    mean, std = mean.expand(20, 4000).contiguous(), std.expand(20, 4000).contiguous()
    for x, expected_mean, expected_std in [
        (torch.normal(mean.to("accel"), std.to("accel")), mean, std),
        (torch.normal(mean.to("accel"), 0.5), mean, torch.tensor(0.5)),
        (torch.normal(1.0, std.to("accel")), torch.tensor(1.0), std),
    ]:
        normalised = (x.cpu() - expected_mean) / expected_std
        assert normalised.mean(1).abs().max() < 0.1
        assert (normalised.std(1) - 1).abs().max() < 0.1
    assert abs(torch.normal(3.0, 0.1, (10_000,), device="accel").mean().item() - 3) < 0.01


@pytest.mark.parametrize("count", [0, 1, 5, 1000])
def test_randperm(count):
    x = torch.randperm(count, device="accel")
    assert x.dtype == torch.int64
    assert sorted(x.tolist()) == list(range(count))
    if count == 1000:
        assert not torch.equal(x, torch.randperm(count, device="accel"))


FILLS = {
    "rand": lambda: torch.rand(101, device="accel"),
    "randn": lambda: torch.randn(3, 35, device="accel"),
    "randint": lambda: torch.randint(0, 1000, (101,), device="accel"),
    "wide": lambda: torch.empty(9, dtype=torch.int64, device="accel").random_(),
    "bernoulli": lambda: torch.full((101,), 0.5, device="accel").bernoulli(),
    "exponential": lambda: torch.empty(101, device="accel").exponential_(),
    "dropout": lambda: functional.dropout(torch.ones(101, device="accel")),
    "randperm": lambda: torch.randperm(101, device="accel"),
    "rand_like": lambda: torch.rand_like(torch.empty(5, 7, device="accel")),
}


@pytest.mark.parametrize("name", FILLS)
def test_a_seed_makes_numbers_repeat_and_they_go_on(name):
    torch.manual_seed(3)
    first, second = FILLS[name](), FILLS[name]()
    assert not torch.equal(first, second)
    torch.manual_seed(3)
    assert torch.equal(FILLS[name](), first)
    state = torch.accel.get_rng_state()
    again = FILLS[name]()
    assert torch.equal(again, second)
    torch.accel.set_rng_state(state)
    assert torch.equal(FILLS[name](), second)
    torch.manual_seed(4)
    assert not torch.equal(FILLS[name](), first)


def test_generators_are_independent():
    a = torch.Generator("accel").manual_seed(5)
    b = torch.Generator("accel").manual_seed(5)
    before = torch.accel.get_rng_state()
    x = torch.rand(10, generator=a, device="accel")
    assert torch.equal(x, torch.rand(10, generator=b, device="accel"))
    assert not torch.equal(x, torch.rand(10, generator=b, device="accel"))
    assert torch.equal(torch.accel.get_rng_state(), before)
    assert sorted(torch.randperm(9, generator=a, device="accel").tolist()) == list(range(9))
    with pytest.raises(RuntimeError, match=r"Expected a '.*' device type for generator"):
        torch.rand(10, generator=torch.Generator(), device="accel")


def test_numbers_do_not_depend_on_layout():
    torch.manual_seed(1)
    x = torch.empty(6, 7, device="accel").uniform_()
    torch.manual_seed(1)
    y = torch.empty(7, 6, device="accel").t().uniform_()
    assert torch.equal(x, y)


# ---- dropout ----


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("p", [0.1, 0.5])
def test_dropout(p, dtype):
    x = torch.ones(200, 201, dtype=dtype, device="accel", requires_grad=True)
    y = functional.dropout(x, p)
    kept = y != 0
    rate = 1 - kept.double().mean().item()
    assert abs(rate - p) < 5 * math.sqrt(p * (1 - p) / x.numel())
    torch.testing.assert_close(y.detach(), kept * torch.tensor(1 / (1 - p)).to(dtype).to("accel"))
    y.backward(torch.ones_like(y))
    assert torch.equal(x.grad, y.detach())


def test_dropout_takes_the_fused_op(counted):
    x = torch.ones(200, 201, device="accel", requires_grad=True)
    y = functional.dropout(x, 0.5)
    assert "NativeDropout" in type(y.grad_fn).__name__
    torch.accel.synchronize()
    natively(counted, lambda: functional.dropout(x, 0.5).sum().backward())


def test_dropout_at_its_ends():
    x = torch.ones(20, 21, device="accel", requires_grad=True)
    assert torch.equal(functional.dropout(x, 0.5, training=False), x)
    assert functional.dropout(x, 0.0).eq(1).all().item()
    y = functional.dropout(x, 1.0)
    assert y.eq(0).all().item()
    y.sum().backward()
    assert x.grad.eq(0).all().item()
    for p, train, value in [(1.0, True, 0), (0.5, False, 1)]:
        out, mask = torch.native_dropout(x, p, train)
        assert out.eq(value).all().item() and mask.eq(bool(value)).all().item()
    assert functional.dropout(torch.empty(0, 3, device="accel")).shape == (0, 3)


def test_in_place_and_other_dropouts():
    x = torch.ones(64, 8, 5, 5, device="accel")
    y = functional.dropout2d(x, 0.5).cpu()
    assert set(y.sum((2, 3)).unique().tolist()) == {0.0, 50.0}
    z = functional.dropout(x.clone(), 0.5, inplace=True).cpu()
    assert set(z.unique().tolist()) == {0.0, 2.0}
    assert functional.alpha_dropout(x, 0.5).isfinite().all().item()


def test_dropout_of_a_transposed_input():
    x = torch.rand(30, 40).add(1).to("accel").t().requires_grad_()
    y = functional.dropout(x, 0.5)
    kept = y != 0
    torch.testing.assert_close(y.detach(), (x * kept * 2).detach())
    (grad,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(grad, kept * 2.0)


BAD = {
    "uniform bounds": lambda d: torch.ones(3, device=d).uniform_(2, 1),
    "uniform of int": lambda d: torch.ones(3, device=d, dtype=torch.int64).uniform_(),
    "normal deviation": lambda d: torch.ones(3, device=d).normal_(0, -1),
    "normal of int": lambda d: torch.ones(3, device=d, dtype=torch.int64).normal_(),
    "bernoulli p": lambda d: torch.ones(3, device=d).bernoulli_(2),
    "bernoulli of int": lambda d: torch.bernoulli(torch.ones(3, device=d, dtype=torch.int64)),
    "exponential of int": lambda d: torch.ones(3, device=d, dtype=torch.int64).exponential_(),
    "exponential rate": lambda d: torch.ones(3, device=d).exponential_(-1),
    "cauchy of int": lambda d: torch.ones(3, device=d, dtype=torch.int64).cauchy_(),
    "log_normal of int": lambda d: torch.ones(3, device=d, dtype=torch.int64).log_normal_(),
    "random bounds": lambda d: torch.ones(3, device=d).random_(5, 2),
    "randint bounds": lambda d: torch.randint(5, 2, (3,), device=d),
    "random out of dtype": lambda d: torch.ones(3, device=d, dtype=torch.int8).random_(0, 1000),
    "randperm": lambda d: torch.randperm(-1, device=d),
    "dropout of int": lambda d: functional.dropout(torch.ones(3, device=d, dtype=torch.int64)),
    "dropout p": lambda d: functional.dropout(torch.ones(3, device=d), 1.5),
    "expanded": lambda d: torch.ones(1, device=d).expand(3).uniform_(),
    "expanded normal": lambda d: torch.ones(1, device=d).expand(3).normal_(),
}


@pytest.mark.parametrize("name", BAD)
def test_errors_are_the_cpu_s(name):
    assert_same_error(BAD[name])


def test_random_numbers_are_recorded(counted):
    x = torch.empty(101, device="accel")
    torch.accel.synchronize()
    natively(
        counted,
        lambda: (
            x.uniform_(), x.normal_(), x.bernoulli_(0.5), x.exponential_(),
            torch.rand_like(x), torch.randint(0, 9, (5,), device="accel"), torch.bernoulli(x),
        ),
    )  # fmt: skip
