"""Embedding tables against the CPU, forward and backward."""

import itertools

import pytest
import torch
from compare import FLOATING, LAYOUTS, assert_as_on_cpu, assert_same_error, natively, values
from torch.nn.functional import embedding, embedding_bag

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


# --- bags ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("index_dtype", [torch.int64, torch.int32], ids=str)
def test_bags(mode, dtype, index_dtype):
    index = torch.randint(0, 20, (30,)).to(index_dtype)
    offsets = torch.tensor([0, 4, 4, 5, 19]).to(index_dtype)
    # Several rows are added to one: the CPU does it in 16 bits, the device in 32.
    backward = dtype in (torch.float32, torch.float64)
    for options in [{}, {"padding_idx": 3}, {"include_last_offset": True}]:
        if "include_last_offset" in options:
            offsets = torch.cat([offsets, torch.tensor([30]).to(index_dtype)])
        assert_as_on_cpu(
            lambda table, index, offsets, o=options: embedding_bag(
                index, table, offsets, mode=mode, **o
            ),
            values((20, 33), dtype), index, offsets, backward=backward,
        )  # fmt: skip
    assert_as_on_cpu(
        lambda table, index: embedding_bag(index.view(6, 5), table, mode=mode),
        values((20, 33), dtype), index, backward=backward,
    )  # fmt: skip


def test_bags_with_weights():
    index, offsets = torch.randint(0, 20, (30,)), torch.tensor([0, 4, 4, 5, 19])
    for options in [{}, {"padding_idx": 3}]:
        assert_as_on_cpu(
            lambda table, weights, o=options: embedding_bag(
                index.to(table.device), table, offsets.to(table.device), mode="sum",
                per_sample_weights=weights, **o,
            ),
            values((20, 33)), values((30,)), backward=True,
        )  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_bags_of_tables_in_other_layouts(layout):
    index, offsets = torch.randint(0, 20, (30,)), torch.tensor([0, 4, 4, 5, 19])
    assert_as_on_cpu(
        lambda table: embedding_bag(index.to(table.device), table, offsets.to(table.device)),
        values((20, 33)), layout=layout, backward=True,
    )  # fmt: skip


@pytest.mark.parametrize("mode", ["sum", "mean"])
def test_gradients_of_bags_scaled_by_frequency(mode):
    """Against what is meant: the CPU divides by other rows' frequencies."""
    index, offsets = torch.randint(0, 20, (30,)), [0, 4, 4, 5, 19, 30]
    table = torch.zeros(20, 3, dtype=torch.float64, device="accel", requires_grad=True)
    grad = torch.randn(5, 3, dtype=torch.float64)
    out = embedding_bag(
        index.to("accel"), table, torch.tensor(offsets, device="accel"), mode=mode,
        include_last_offset=True, scale_grad_by_freq=True,
    )  # fmt: skip
    out.backward(grad.to("accel"))
    expected, counts = torch.zeros(20, 3, dtype=torch.float64), index.bincount(minlength=20)
    for bag, (begin, end) in enumerate(itertools.pairwise(offsets)):
        share = 1 / (end - begin) if mode == "mean" and end > begin else 1
        for row in index[begin:end]:
            expected[row] += grad[bag] * share / counts[row]
    torch.testing.assert_close(table.grad.cpu(), expected)


def test_bags_wait_for_nothing(counted):
    table = torch.randn(20, 33, device="accel", requires_grad=True)
    weights = torch.randn(30, device="accel", requires_grad=True)
    index = torch.randint(0, 20, (30,), device="accel")
    offsets = torch.tensor([0, 4, 4, 5, 19], device="accel")
    torch.accel.synchronize()
    for mode in ("sum", "mean", "max"):
        factors = weights if mode == "sum" else None
        natively(
            counted,
            lambda mode=mode, factors=factors: embedding_bag(
                index, table, offsets, mode=mode, per_sample_weights=factors
            ).sum().backward(),
        )  # fmt: skip


def test_bag_errors():
    def bags(index, offsets, **options):
        def call(device):
            table = torch.zeros(5, 3, device=device)
            arguments = [torch.tensor(index, device=device), torch.tensor(offsets, device=device)]
            torch.embedding_bag(table, *arguments, **options)

        return call

    for call in [
        bags([1, 5], [0, 1]),
        bags([1, -1], [0, 1]),
        bags([1, 2], [1, 1]),
        bags([1, 2], [0, 3]),
        bags([1.0, 2], [0, 1]),
    ]:
        assert_same_error(call, message=False)
