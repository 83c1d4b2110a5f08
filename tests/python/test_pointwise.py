"""Elementwise operators where PyTorch's database has no samples: outputs of a wider dtype, numbers
that a tensor's dtype does not hold, more dimensions than a kernel walks, arguments far out."""

import pytest
import torch
from compare import assert_as_on_cpu, assert_same_error
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

EDGES = {
    torch.uint8: [0, 1, 100, 255],
    torch.int8: [-128, -1, 1, 100, 127],
    torch.int32: [-(2**31), -1, 1, 2**31 - 1],
    torch.float16: [-6e4, 0.1, 1.01, 6e4],
    torch.bfloat16: [-3e38, 0.1, 1.01, 3e38],
}
BINARY = [torch.add, torch.sub, torch.mul, torch.maximum]
UNARY = [torch.sigmoid, torch.exp, torch.neg, torch.square]


@pytest.mark.parametrize("to", [torch.int32, torch.int64, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("dtype", EDGES, ids=str)
def test_an_output_of_another_dtype_gets_what_the_op_makes_in_its_own(dtype, to):
    x = torch.tensor(EDGES[dtype], dtype=dtype)
    for function in (*BINARY, *UNARY):
        arguments = (x, x.flip(0)) if function in BINARY else (x,)
        made = function(*arguments)
        if not torch.can_cast(made.dtype, to):
            continue
        # float16 and bfloat16 are rounded in other places of a formula than on the CPU.
        rounding = torch.finfo(made.dtype).eps if made.dtype.is_floating_point else 0
        out = torch.zeros(len(x), dtype=to, device="accel")
        function(*(argument.to("accel") for argument in arguments), out=out)
        torch.testing.assert_close(out.cpu(), made.to(to), rtol=rounding, atol=0, msg=str)
        if rounding:
            assert torch.equal(out, out.to(made.dtype).to(to))


@pytest.mark.parametrize("number", [-1, 255, 256, 300, -129, 2**31 - 1, 2**33 + 5])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32], ids=str)
def test_numbers_become_the_tensor_s_dtype_first(dtype, number):
    values = [0, 1, 44, 100, 127] + ([255] if dtype == torch.uint8 else [-1, -128])

    def compute(x):
        results = [x == number, x < number, x >= number, x + number, x * number, x - number]
        if torch.tensor(number).to(dtype) != 0:  # and not, by accident, a division by zero
            results += [x // number, x % number, torch.fmod(x, number)]
        return results

    x = torch.tensor(values, dtype=dtype)
    for result, expected in zip(compute(x.to("accel")), compute(x), strict=True):
        assert result.dtype == expected.dtype and torch.equal(result.cpu(), expected)


@settings(deadline=None, max_examples=15)
@given(st.data())
def test_any_number_of_dimensions(data):
    dims = data.draw(st.integers(11, 18))
    sizes = data.draw(st.lists(st.sampled_from([1, 2, 2]), min_size=dims, max_size=dims))
    orders = [data.draw(st.permutations(range(dims))) for _ in range(2)]
    reduced = data.draw(st.lists(st.integers(0, dims - 1), min_size=1, max_size=5, unique=True))

    def compute(x):
        # Permuted, to the sizes of x again where they allow it, else broadcast.
        first, second = (x.permute(order).reshape(sizes) for order in orders)
        other = torch.empty(sizes, device=x.device).permute(orders[0]).reshape_as(x)
        torch.add(x, first, out=other)
        total = (first * second).sum(reduced, keepdim=True) + x
        changed = x.clone()
        changed.permute(orders[1]).mul_(2).add_(1)
        return total.softmax(0) + other, changed

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(sizes, generator=generator)
    for result, expected in zip(compute(x.to("accel")), compute(x), strict=True):
        torch.testing.assert_close(result.cpu(), expected)


def test_operands_of_thirteen_dimensions_that_do_not_merge():
    dims = 13
    order = [*range(0, dims, 2), *range(1, dims, 2)][::-1]

    def differentiable(x):
        return (x.permute(order) * x).exp().sum((0, 2, 5)).softmax(3)

    def compute(x):
        y = (x.permute(order) * x).exp()
        z = x.clone()
        z.permute(order).mul_(x).add_(1)
        widened = torch.zeros_like(y, dtype=torch.float64).permute(order)
        torch.add(x, y, out=widened)
        return z, widened, y.permute(order).std()

    x = torch.randn([2] * dims, generator=torch.Generator().manual_seed(0)) / 10
    assert_as_on_cpu(differentiable, x, backward=True)
    for result, expected in zip(compute(x.to("accel")), compute(x), strict=True):
        torch.testing.assert_close(result.cpu(), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_the_slope_of_gelu_far_out(dtype):
    values = [-1e30, -1e12, -1e4, -100, -30, 30, 100, 1e4, 1e12]
    for approximate in ("none", "tanh"):
        x = torch.tensor(values, dtype=dtype, device="accel", requires_grad=True)
        functional.gelu(x, approximate=approximate).sum().backward()
        expected = torch.tensor([0.0] * 5 + [1.0] * 4, dtype=dtype)
        torch.testing.assert_close(x.grad.cpu(), expected, rtol=0, atol=1e-25)


def test_booleans_are_numbers_to_smooth_l1_loss():
    x, y = torch.tensor([0.5, 1.0, 3.0]), torch.tensor([True, False, True])
    for function in (functional.smooth_l1_loss, functional.mse_loss):
        for arguments in ((x, y), (y, x)):
            moved = (argument.to("accel") for argument in arguments)
            torch.testing.assert_close(function(*moved).cpu(), function(*arguments))


def test_a_host_op_s_refusal_is_raised_at_the_call_after_a_run_without_dimensions():
    torch.tensor(True, device="accel").cumsum_(0)
    with pytest.raises(NotImplementedError):
        torch.tensor([True, False], device="accel").cumsum_(0)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.float16], ids=str)
def test_numbers_that_the_dtype_does_not_hold_are_refused_where_the_cpu_refuses_them(dtype):
    def full(device):
        torch.full((2,), 70000, dtype=dtype, device=device)

    def masked_fill(device):
        x = torch.ones(2, dtype=dtype, device=device)
        x.masked_fill_(x > 0, 70000)

    for call in (full, masked_fill):
        assert_same_error(call)


def test_a_bound_that_an_integer_does_not_hold_is_refused():
    assert_same_error(lambda device: torch.ones(2, dtype=torch.int8, device=device).clamp(max=300))
