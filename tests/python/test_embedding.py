"""Embedding tables against the CPU, forward and backward."""

import pytest
import torch
from compare import FLOATING, LAYOUTS, assert_as_on_cpu, assert_same_error, natively, values
from torch.nn.functional import embedding

SHAPES = [(), (1,), (7,), (3, 5), (2, 3, 300), (0,), (0, 3)]


@pytest.mark.parametrize("index_dtype", [torch.int64, torch.int32], ids=str)
@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_embedding(shape, dtype, index_dtype):
    index = torch.randint(0, 20, shape).to(index_dtype)
    # Hundreds of rows are added to one: the CPU does it in 16 bits, the device in 32.
    many = index.numel() > 100 and dtype in (torch.bfloat16, torch.float16)
    assert_as_on_cpu(
        lambda table: embedding(index.to(table.device), table), values((20, 33), dtype),
        backward=not many,
    )  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_the_gradient_is_added_in_fp32_and_rounded_once(dtype):
    index = torch.randint(0, 20, (5000,))
    grad = values((5000, 33), dtype)
    exact = torch.zeros(20, 33, dtype=torch.float64).index_add_(0, index, grad.double())
    table = torch.zeros(20, 33, dtype=dtype, device="accel", requires_grad=True)
    embedding(index.to("accel"), table).backward(grad.to("accel"))
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(table.grad.cpu().double(), exact, rtol=eps, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64], ids=str)
def test_tables_of_other_dtypes(dtype):
    table = torch.randint(0, 2, (20, 3)).to(dtype)
    assert_as_on_cpu(lambda table, index: embedding(index, table), table, torch.tensor([3, 0, 19]))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout):
    assert_as_on_cpu(
        lambda table, index: embedding(index, table), values((20, 33)),
        torch.randint(0, 20, (4, 6)), layout=layout, backward=True,
    )  # fmt: skip


def test_padding_index_and_frequency():
    index = torch.tensor([[1, 2, 2], [0, 1, 1]])
    for options in [
        {"padding_idx": 1},
        {"padding_idx": -1},
        {"scale_grad_by_freq": True},
        {"padding_idx": 2, "scale_grad_by_freq": True},
    ]:
        assert_as_on_cpu(
            lambda table, o=options: embedding(index.to(table.device), table, **o),
            values((4, 5)), backward=True,
        )  # fmt: skip


def test_module_and_second_use_of_a_table():
    """Tied weights: the table is read as an embedding and as a matrix."""
    index = torch.tensor([[1, 2], [3, 1]])
    assert_as_on_cpu(
        lambda table: embedding(index.to(table.device), table) @ table.t(), values((4, 5)),
        backward=True,
    )  # fmt: skip


BAD = {
    "float index": lambda d: embedding(torch.ones(2, device=d), torch.ones(4, 3, device=d)),
    "short index": lambda d: embedding(
        torch.ones(2, device=d, dtype=torch.int16), torch.ones(4, 3, device=d)
    ),
    "table of one dimension": lambda d: embedding(
        torch.ones(2, device=d, dtype=torch.int64), torch.ones(4, device=d)
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_errors_are_the_cpu_s(name):
    # The wording names the tensor type, which has the device in it.
    assert_same_error(BAD[name], message="index" not in name)


def test_an_index_on_another_device_is_an_error():
    with pytest.raises(RuntimeError, match="same device"):
        embedding(torch.tensor([1]), torch.ones(4, 3, device="accel"))


def test_an_index_out_of_range_is_raised_at_the_next_wait():
    for bad in (4, -1):
        with pytest.raises((IndexError, RuntimeError), match=r"out of (range|bounds)"):
            embedding(torch.tensor([bad], device="accel"), torch.ones(4, 3, device="accel"))
            torch.accel.synchronize()


def test_embedding_is_recorded(counted):
    table = values((20, 33)).to("accel").requires_grad_()
    index = torch.randint(0, 20, (4, 6)).to("accel")
    torch.accel.synchronize()
    natively(counted, lambda: embedding(index, table).sum().backward())
