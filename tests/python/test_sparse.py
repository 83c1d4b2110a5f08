"""Sparse tensors: every layout on accel as on the CPU."""

import copy
import io
import warnings

import pytest
import torch

LAYOUTS = {
    "coo": lambda x: x.to_sparse(),
    "hybrid": lambda x: x.to_sparse(1),
    "csr": lambda x: x.to_sparse_csr(),
    "csc": lambda x: x.to_sparse_csc(),
    "bsr": lambda x: x.to_sparse_bsr((2, 2)),
    "bsc": lambda x: x.to_sparse_bsc((2, 2)),
}


@pytest.fixture(autouse=True)
def _quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def dense(rows: int = 6, columns: int = 4) -> torch.Tensor:
    x = torch.randn(rows, columns)
    return x * (torch.rand(rows, columns) > 0.5)


def assert_same(got: torch.Tensor, expected: torch.Tensor) -> None:
    assert got.device.type == "accel" and got.layout == expected.layout
    torch.testing.assert_close(got.cpu(), expected)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_round_trips(layout):
    x = dense()
    sparse = LAYOUTS[layout](x)
    assert_same(sparse.to("accel"), sparse)
    assert_same(LAYOUTS[layout](x.to("accel")), sparse)
    assert torch.equal(sparse.to("accel").to_dense().cpu(), x)
    assert_same(sparse.to("accel").clone(), sparse)
    assert_same(copy.deepcopy(sparse.to("accel")), sparse)
    assert "accel" in repr(sparse.to("accel"))
    buffer = io.BytesIO()
    torch.save(sparse.to("accel"), buffer)
    buffer.seek(0)
    assert_same(torch.load(buffer), sparse)


OPS = {
    "neg": lambda x: -x,
    "sin": torch.sin,
    "scaled": lambda x: x * 3,
    "added": lambda x: x + x,
    "transposed": lambda x: x.t().to_dense(),
    "times a matrix": lambda x: x @ torch.ones(4, 3, device=x.device),
    "sum": lambda x: x.sum(),
    "abs in place": lambda x: x.abs_(),
    "zeroed": lambda x: x.zero_(),
}


@pytest.mark.parametrize("layout", ["coo", "csr"])
@pytest.mark.parametrize("name", OPS)
def test_ops(name, layout):
    sparse = LAYOUTS[layout](dense())
    assert_same(OPS[name](sparse.to("accel")), OPS[name](sparse.clone()))


def test_duplicate_indices_are_summed():
    indices, values = torch.tensor([[0, 0, 2], [1, 1, 0]]), torch.tensor([1.0, 2.0, 3.0])
    x = torch.sparse_coo_tensor(indices.to("accel"), values.to("accel"), (3, 2))
    assert not x.is_coalesced()
    assert x.coalesce().values().tolist() == [3, 3]
    assert x.add_(x).to_dense().tolist() == [[0, 6], [0, 0], [6, 0]]


def test_gradients_pass_through_a_sparse_product():
    x, y = dense(), torch.randn(4, 3)

    def run(device):
        a = x.to(device).to_sparse().requires_grad_()
        b = y.clone().to(device).requires_grad_()
        torch.sparse.mm(a, b).sum().backward()
        return a.grad.to_dense().cpu(), b.grad.cpu()

    for got, expected in zip(run("accel"), run("cpu"), strict=True):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.SparseAdam])
def test_an_embedding_with_sparse_gradients_trains(optimizer):
    weight, tokens = torch.randn(7, 3), torch.tensor([1, 2, 1, 5])

    def run(device):
        embedding = torch.nn.Embedding(7, 3, sparse=True)
        embedding.weight.data.copy_(weight)
        embedding.to(device)
        step = optimizer(embedding.parameters(), lr=0.1)
        for _ in range(3):
            step.zero_grad()
            embedding(tokens.to(device)).square().sum().backward()
            assert embedding.weight.grad.is_sparse
            step.step()
        return embedding.weight.detach().cpu()

    torch.testing.assert_close(run("accel"), run("cpu"))


def test_fallbacks_are_counted(counted):
    x = dense().to("accel").to_sparse()
    with counted() as change:
        torch.sin(x)
    assert change["fallbacks"] == 1


def test_wrong_arguments_give_the_cpu_s_error():
    for device in ("cpu", "accel"):
        x = dense().to(device).to_sparse()
        with pytest.raises(RuntimeError, match="size|mat1"):
            torch.sparse.mm(x, torch.ones(5, 2, device=device))


def test_in_place_ops_keep_the_components_they_write():
    def run(device):
        x = torch.eye(4, device=device).to_sparse_csr()
        values = x.values().detach()
        x.mul_(3)
        return values.cpu()

    assert torch.equal(run("accel"), run("cpu"))


def test_a_tensor_given_twice_is_one_tensor_to_the_kernel():
    x, y = dense(), torch.randn(4, 3)

    def run(device):
        return torch.smm(x.to(device).to_sparse(), y.to(device))  # result and addend are the same

    assert_same(run("accel").coalesce(), run("cpu").coalesce())


@pytest.mark.parametrize("layout", ["coo", "csr"])
def test_sparse_tensors_of_two_devices_do_not_mix(layout):
    sparse, matrix = LAYOUTS[layout](dense()), torch.ones(4, 3)
    for a, b in ((sparse, matrix.to("accel")), (sparse.to("accel"), matrix)):
        with pytest.raises(RuntimeError, match="on the same device"):
            torch.sparse.mm(a, b)
    with pytest.raises(RuntimeError, match="on the same device"):
        sparse + sparse.to("accel")


def test_a_sparse_term_is_added_to_a_view():
    x = dense()

    def run(device):
        whole = torch.zeros(8, 8, device=device)
        whole[1:7, 2:6].add_(x.to(device).to_sparse())
        return whole.cpu()

    assert torch.equal(run("accel"), run("cpu"))


def test_sparse_and_dense_gradients_of_one_weight():
    weight, tokens = torch.randn(7, 3), torch.tensor([1, 2])

    def run(device):
        tied = weight.to(device).requires_grad_()
        rows = torch.nn.functional.embedding(tokens.to(device), tied, sparse=True)
        (rows @ tied.t()).square().sum().backward()
        return tied.grad.cpu()

    torch.testing.assert_close(run("accel"), run("cpu"))


def test_forbidden_fallbacks_raise(run_python):
    code = """
        import torch
        x = torch.sparse_coo_tensor([[0, 1]], [1.0, 2.0], device="accel")
        assert x._values().sum().item() == 3
        try:
            torch.sin(x)
        except NotImplementedError as error:
            print(error)
    """
    assert "ACCEL_FALLBACK=error" in run_python(code, ACCEL_FALLBACK="error")


def test_a_device_that_is_not_the_current_one(run_python):
    run_python(
        """
        import warnings

        import torch

        warnings.simplefilter("ignore")
        there = torch.device("accel:1")
        x = torch.eye(4) * 2
        for layout in ("to_sparse", "to_sparse_csr"):
            moved = getattr(x, layout)().to(there)
            made = [moved, moved.clone(), torch.empty_like(moved), getattr(x.to(there), layout)()]
            made[1].copy_(moved)
            for tensor in made:
                assert tensor.device == tensor.values().device == there, layout
            assert torch.equal((moved @ x.to(there)).cpu(), x @ x)
        empty = torch.empty((2, 2), layout=torch.sparse_coo, device=there)
        assert empty._indices().device == empty.sparse_resize_((3, 3), 2, 0).device == there
        assert torch.accel.current_device() == 0
        """,
        ACCEL_DEVICE_COUNT="2",
    )
