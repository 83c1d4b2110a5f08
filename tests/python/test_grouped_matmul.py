"""torch._grouped_mm, the products of a mixture of experts, against the CPU."""

import pytest
import torch
from compare import assert_as_on_cpu, assert_same_error, natively

ENDS = torch.tensor([16, 16, 24, 56], dtype=torch.int32)
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def operands(kind, dtype):
    """The two operands, whose groups divide rows, columns or the inner dimension."""
    shapes = {
        "rows": ((56, 32), (4, 32, 24)),
        "columns": ((4, 24, 32), (32, 56)),
        "inner": ((24, 56), (56, 32)),
    }
    return [torch.randn(shape).to(dtype) / 4 for shape in shapes[kind]]


@pytest.mark.parametrize("kind", ["rows", "columns", "inner"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_forward_and_backward(kind, dtype):
    assert_as_on_cpu(
        lambda a, b, ends: torch._grouped_mm(a, b, offs=ends),
        *operands(kind, dtype), ENDS, backward=True,
    )  # fmt: skip


def test_without_groups_and_with_transposes():
    a, b = torch.randn(3, 8, 16), torch.randn(3, 16, 24)
    assert_as_on_cpu(torch._grouped_mm, a, b, backward=True)
    assert_as_on_cpu(
        lambda a, b, ends: torch._grouped_mm(a, b.transpose(1, 2), offs=ends),
        torch.randn(56, 32), torch.randn(4, 24, 32), ENDS, backward=True,
    )  # fmt: skip


def test_rows_behind_the_last_group_are_zero():
    a, b = torch.randn(64, 32, device="accel"), torch.randn(4, 32, 24, device="accel")
    out = torch._grouped_mm(a, b, offs=ENDS.to("accel")).cpu()
    assert out[:56].ne(0).any() and not out[56:].any()


def test_nobody_waits_for_the_groups(counted):
    a, b = (x.to("accel").requires_grad_() for x in operands("rows", torch.float32))
    ends, grad = ENDS.to("accel"), torch.ones(56, 24, device="accel")
    torch.accel.synchronize()
    natively(counted, lambda: torch._grouped_mm(a, b, offs=ends).backward(grad))


@pytest.mark.parametrize("ends", [[8, 4, 16, 56], [8, 8, 8, 57], [-1, 8, 8, 56]], ids=str)
def test_groups_out_of_range(ends):
    a, b = (x.to("accel") for x in operands("rows", torch.float32))
    torch._grouped_mm(a, b, offs=torch.tensor(ends, dtype=torch.int32, device="accel"))
    with pytest.raises(RuntimeError, match="grouped_mm on accel"):
        torch.accel.synchronize()


@pytest.mark.parametrize(
    "change",
    [
        lambda a, b, ends: (a.double(), b, ends),
        lambda a, b, ends: (a, b, None),
        lambda a, b, ends: (a, b, ends.long()),
        lambda a, b, ends: (a[:, :16], b, ends),
        lambda a, b, ends: (a[:, :30], b[:, :30], ends[:3]),
        lambda a, b, ends: (a.new_zeros(56, 30), b[:, :30].contiguous(), ends),
        lambda a, b, ends: (a.expand(1, 1, 56, 32), b, ends),
    ],
)
def test_errors(change):
    def call(device):
        a, b = (x.to(device) for x in operands("rows", torch.float32))
        torch._grouped_mm(*change(a, b, ENDS.to(device))[:2], offs=change(a, b, ENDS.to(device))[2])

    assert_same_error(call)
