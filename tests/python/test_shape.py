"""cat, stack, roll, padding and what else moves elements, against the CPU."""

import itertools

import pytest
import torch
from torch.nn import functional

DTYPES = [torch.float32, torch.bfloat16, torch.int64, torch.bool, torch.complex64]


def tensors(*shapes, dtype=torch.float32):
    return [torch.randint(-4, 5, shape).to(dtype) for shape in shapes]


def check(op, *lists, exact: bool = True):
    expected = op(*lists)
    result = op(*[[x.to("accel") for x in values] for values in lists])
    assert result.device.type == "accel"
    assert result.stride() == expected.stride()
    torch.testing.assert_close(result.cpu(), expected, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("dim", [0, 1, -1])
def test_cat(dim, dtype):
    shapes = [[3, 4, 5] for _ in range(3)]
    for size, shape in zip([1, 7, 300], shapes, strict=True):
        shape[dim] = size
    check(lambda x: torch.cat(x, dim), tensors(*shapes, dtype=dtype))


def test_cat_of_views_promotion_and_empty_tensors():
    x = torch.arange(24.0).reshape(4, 6)
    check(lambda v: torch.cat([v[0].t(), v[0].t()[:, ::2], v[0].t()[:, :0]], 1), [x])
    check(lambda v: torch.cat([v[0].int(), v[0], v[0].bool()]), [x])
    check(lambda v: torch.cat([v[0], torch.empty(0, device=v[0].device)]), [x])
    check(lambda v: torch.cat([v[0].t(), v[0].t()]), [x])
    check(lambda v: torch.cat([v[0][:0], v[0][:0]]), [x])
    image = torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last)
    check(lambda v: torch.cat([v[0], v[0]], 1), [image])


def test_cat_into_out():
    x = torch.rand(3, 4)
    out = torch.empty(6, 4, device="accel")
    address = out.data_ptr()
    torch.cat([x.to("accel"), x.to("accel")], out=out)
    assert out.data_ptr() == address and torch.equal(out.cpu(), torch.cat([x, x]))
    with pytest.raises(RuntimeError, match="overlap|single memory location"):
        torch.cat([out[:3], out[:3]], out=out)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("dim", [0, 1, -1])
def test_stack(dim, dtype):
    check(lambda x: torch.stack(x, dim), tensors((4, 5), (4, 5), (4, 5), dtype=dtype))


def test_stack_of_scalars_views_and_promotion():
    check(lambda x: torch.stack(x), tensors((), (), ()))
    row = torch.arange(5.0).to("accel")
    assert torch.stack([row[1], row[2], row[3]]).tolist() == [1, 2, 3]
    assert torch.stack([row[3], row[2], row[1]]).tolist() == [3, 2, 1]
    check(lambda x: torch.stack([x[0].int(), x[0]]), tensors((3, 2)))
    out = torch.empty(0, device="accel")
    torch.stack([row, row], out=out)
    assert out.shape == (2, 5)


@pytest.mark.parametrize(
    "call",
    [
        lambda d: torch.cat([]),
        lambda d: torch.cat([torch.ones((), device=d)] * 2),
        lambda d: torch.cat([torch.ones(2, 3, device=d), torch.ones(2, device=d)]),
        lambda d: torch.cat([torch.ones(2, 3, device=d)], 2),
        lambda d: torch.stack([torch.ones(2, device=d), torch.ones(3, device=d)]),
        lambda d: torch.stack([torch.ones(2, device=d)], 3),
        lambda d: torch.ones(3, 4, device=d).roll((1, 2), (0,)),
        lambda d: torch.ones(3, 4, device=d).roll(1, 5),
    ],
)
def test_errors_are_the_cpu_s(call):
    errors = []
    for device in ("cpu", "accel"):
        with pytest.raises((RuntimeError, IndexError, ValueError)) as caught:
            call(device)
        errors.append((type(caught.value), str(caught.value).splitlines()[0]))
    assert errors[0] == errors[1]


def test_devices_do_not_mix():
    for op in (torch.cat, torch.stack):
        with pytest.raises(RuntimeError, match="same device"):
            op([torch.ones(2, device="accel"), torch.ones(2)])


@pytest.mark.parametrize(
    ("shifts", "dims"),
    [
        (1, 0),
        (-2, 1),
        ((1, 3), (0, 1)),
        ((1, 3, -1), (0, 1, 2)),
        (5, None),
        (0, 0),
        (7, 0),
        ((1, 1), (0, 0)),
    ],
)
def test_roll(shifts, dims):
    check(lambda x: torch.roll(x[0], shifts, dims), tensors((3, 4, 5)))
    check(lambda x: torch.roll(x[0].transpose(0, 2), shifts, dims), tensors((3, 4, 5)))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_flips_of_every_dimension(dtype):
    shapes = [(), (1,), (300,), (3, 7), (4, 5, 33), (0, 4)]
    for shape in shapes:
        for count in range(len(shape) + 1):
            for dims in itertools.combinations(range(len(shape)), count):
                check(lambda x, d=dims: x[0].flip(d), tensors(shape, dtype=dtype))
                if len(shape) == 2:
                    check(lambda x, d=dims: x[0].t().flip(d), tensors(shape, dtype=dtype))
    # Joined with what makes the elements and what takes them.
    check(lambda x: (x[0] * 2).flip(0, 1) + x[0].flip(1), tensors((9, 40)))


# On both sides, on one, on none, and less than nothing; the last dimension first.
PADS = {
    1: [(1, 2), (5, 0), (0, 5), (-2, 3), (-4, 1), (2, -1), (-1, -2), (-5, 4), (-7, 3), (3, -7)],
    2: [(1, 2, 3, 0), (-1, 3, 2, -2), (0, 0, 1, 1), (5, 0, 0, 3)],
    3: [(1, 2, 3, 0, 2, 1), (-1, 0, 0, 2, 1, -1)],
}


@pytest.mark.parametrize("mode", ["reflect", "replicate"])
@pytest.mark.parametrize("dims", PADS)
def test_pads_and_their_gradients(dims, mode):
    x = torch.randn(2, 3, *(4, 5, 6)[-dims:], dtype=torch.float64)
    for padding in PADS[dims]:
        results = []
        for device in ("cpu", "accel"):
            leaf = x.detach().to(device).requires_grad_()
            y = functional.pad(leaf, padding, mode=mode)
            torch.sum(y * torch.arange(y.numel(), device=device).view_as(y)).backward()
            results.append((y.detach().cpu(), leaf.grad.cpu()))
        torch.testing.assert_close(results[1][0], results[0][0], rtol=0, atol=0)
        torch.testing.assert_close(results[1][1], results[0][1])


@pytest.mark.parametrize("mode", ["reflect", "replicate"])
def test_flips_and_pads_stay_on_the_device(mode, counted):
    x = torch.ones(2, 3, 8, device="accel", requires_grad=True)
    with counted() as change:
        functional.pad(x.flip(-1), (2, 3), mode=mode).sum().backward()
    assert change["waits"] == change["host_ops"] == change["fallbacks"] == 0


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "op",
    [
        lambda x: functional.pad(x, (1, 2, 0, 1), value=3),
        lambda x: x.repeat(2, 3),
        lambda x: x.repeat_interleave(3, 1),
        lambda x: x.flip(1),
        lambda x: x.rot90(),
        lambda x: torch.split_with_sizes_copy(x, [1, 3])[1],
        lambda x: torch.tile(x, (2, 2)),
        lambda x: torch.block_diag(x, x),
        lambda x: torch.vstack([x, x]),
        lambda x: torch.diag_embed(x),
        lambda x: x.unfold(1, 2, 1).contiguous(),
        lambda x: torch.chunk(x, 2)[1].contiguous(),
        lambda x: torch._chunk_cat([x, x], 0, 2),
    ],
)
def test_other_ops_that_move_elements(op, dtype):
    check(lambda x: op(x[0]), tensors((4, 5), dtype=dtype))


def test_nothing_waits_or_leaves_the_device(counted):
    x = torch.ones(4, 6, device="accel")
    with counted() as change:
        y = torch.cat([x * 2, x.t().reshape(4, 6)], 1)
        z = torch.stack([y, y + 1]).roll((1, 2), (1, 2))
        w = functional.pad(z, (1, 1)).repeat(1, 2, 1)
        w.record_stream(torch.accel.current_stream())
    assert change["waits"] == change["host_ops"] == change["fallbacks"] == 0


def test_gradients():
    x = torch.randn(3, 4)
    results = []
    for device in ("cpu", "accel"):
        leaf = x.clone().to(device).requires_grad_()
        y = torch.cat([leaf, leaf * 2], 1)
        z = torch.stack([y, y.roll(1, 0)]).cumsum(1)
        (z.sort(-1).values * torch.arange(8.0, device=device)).sum().backward()
        results.append(leaf.grad.cpu())
    torch.testing.assert_close(results[1], results[0])
