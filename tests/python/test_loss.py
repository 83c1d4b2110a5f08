"""Losses against the CPU, forward and backward."""

import pytest
import torch
from compare import FLOATING, LAYOUTS, assert_as_on_cpu, assert_same_error, natively, values
from torch.nn import functional

REDUCTIONS = ["none", "mean", "sum"]


def targets(rows, classes, ignored=False):
    target = torch.randint(0, classes, (rows,))
    if ignored:
        target[::3] = -100
    return target


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("ignored", [False, True])
@pytest.mark.parametrize("rows", [1, 7, 130])
def test_nll_loss(rows, ignored, weighted, reduction, dtype):
    scores = values((rows, 11), torch.float32).log_softmax(1).to(dtype)
    target = targets(rows, 11, ignored)
    weight = (torch.rand(11) + 0.5).to(dtype) if weighted else None
    # A sum in 16 bits: the CPU rounds each addition.
    limit = {torch.bfloat16: 5e-2, torch.float16: 1e-2}.get(dtype)
    assert_as_on_cpu(
        lambda x: functional.nll_loss(
            x, target.to(x.device), weight if weight is None else weight.to(x.device),
            reduction=reduction,
        ),
        scores, backward=True, rtol=limit, atol=limit,
    )  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_cross_entropy(dtype, layout):
    target = targets(33, 65, ignored=True)
    for options in [{}, {"label_smoothing": 0.1}, {"reduction": "sum"}, {"reduction": "none"}]:
        assert_as_on_cpu(
            lambda x, o=options: functional.cross_entropy(x, target.to(x.device), **o),
            values((33, 65), dtype), backward=True, layout=layout,
            rtol=3e-2 if dtype == torch.bfloat16 else 1e-4,
            atol=3e-2 if dtype == torch.bfloat16 else 1e-5,
        )  # fmt: skip


def test_cross_entropy_of_images_probabilities_and_single_rows():
    images, classes = values((2, 5, 4, 3)), torch.randint(0, 5, (2, 4, 3))
    assert_as_on_cpu(lambda x, t: functional.cross_entropy(x, t), images, classes, backward=True)
    assert_as_on_cpu(
        lambda x, t: functional.cross_entropy(x, t.softmax(1)), values((6, 5)), values((6, 5)),
        backward=True,
    )  # fmt: skip
    for reduction in REDUCTIONS:
        assert_as_on_cpu(
            lambda x, t, r=reduction: functional.nll_loss(x, t, reduction=r),
            values((5,)), torch.tensor(3), backward=True,
        )  # fmt: skip


def test_nll_loss_of_strided_and_byte_targets():
    scores = values((6, 5)).log_softmax(1)
    target = torch.randint(0, 5, (6, 2))
    assert_as_on_cpu(lambda x, t: functional.nll_loss(x, t[:, 1]), scores, target, backward=True)
    assert_as_on_cpu(
        lambda x, t: functional.nll_loss(x, t[:, 1].byte()), scores, target, backward=True
    )


def test_nll_loss_of_nothing_and_of_ignored_rows():
    for reduction in REDUCTIONS:
        assert_as_on_cpu(
            lambda x, t, r=reduction: functional.nll_loss(x, t, reduction=r),
            torch.empty(0, 5), torch.empty(0, dtype=torch.int64), backward=True,
        )  # fmt: skip
        assert_as_on_cpu(
            lambda x, t, r=reduction: functional.nll_loss(x, t, reduction=r),
            values((4, 5)), torch.full((4,), -100), backward=True,
        )  # fmt: skip


def test_another_ignored_index():
    target = torch.tensor([0, 1, 2, 1])
    assert_as_on_cpu(
        lambda x: functional.nll_loss(x, target.to(x.device), ignore_index=1), values((4, 5)),
        backward=True,
    )  # fmt: skip


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", [(), (7,), (4, 65), (0,), (0, 3)], ids=str)
def test_mse_loss(shape, reduction, dtype):
    assert_as_on_cpu(
        lambda x, t: functional.mse_loss(x, t, reduction=reduction), values(shape, dtype),
        values(shape, dtype), backward=True, rtol=2e-2 if dtype == torch.float16 else None,
    )  # fmt: skip


@pytest.mark.filterwarnings("ignore:Using a target size")
def test_mse_loss_broadcasts_and_promotes():
    mse = torch.nn.functional.mse_loss
    assert_as_on_cpu(lambda x, t: mse(x, t), values((4, 5)), values((5,)), backward=True)
    assert_as_on_cpu(lambda x, t: mse(x, t), values((4, 5)), values((4, 5), torch.float64))
    for layout in LAYOUTS:
        assert_as_on_cpu(
            lambda x, t: mse(x, t), values((4, 5)), values((4, 5)), layout=layout, backward=True
        )


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("limit", [0.5, 1.0])
def test_smooth_l1_and_huber(limit, reduction, counted):
    x, t = values((4, 5)), values((4, 5))
    x[0] = t[0]
    for loss, option in [(functional.smooth_l1_loss, "beta"), (functional.huber_loss, "delta")]:
        assert_as_on_cpu(
            lambda x, t, f=loss, o={option: limit}: f(x, t, reduction=reduction, **o),
            x,
            t,
            backward=True,
        )
    y, u = x.to("accel").requires_grad_(), t.to("accel")
    torch.accel.synchronize()
    natively(counted, lambda: functional.huber_loss(y, u).backward())


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_binary_cross_entropy(reduction):
    x, t, w = torch.rand(4, 5), torch.rand(4, 5), torch.rand(4, 5)
    x[0, 0], t[0, 0], x[0, 1], t[0, 1] = 0, 1, 1, 0.5  # logarithms of zero
    for weight in (None, w):
        assert_as_on_cpu(
            lambda x, t, w=weight: functional.binary_cross_entropy(
                x, t, None if w is None else w.to(x.device), reduction=reduction
            ),
            x,
            t,
        )
        assert_as_on_cpu(
            lambda x, w=weight: functional.binary_cross_entropy(
                x, t.to(x.device), None if w is None else w.to(x.device), reduction=reduction
            ),
            x,
            backward=True,
            rtol=1e-4,
        )


def test_losses_without_kernels_of_their_own():
    x, t = values((4, 5)), torch.rand(4, 5)
    for loss in [
        functional.l1_loss,
        functional.binary_cross_entropy_with_logits,
        lambda x, t: functional.kl_div(x.log_softmax(1), t, reduction="batchmean"),
    ]:
        assert_as_on_cpu(
            lambda x, loss=loss: loss(x, t.to(x.device)), x, backward=True, rtol=1e-4, atol=1e-5
        )


def scores(device, *shape, dtype=torch.float32):
    return torch.ones(*shape, device=device, dtype=dtype)


def classes(device, *shape, dtype=torch.int64):
    return torch.ones(*shape, device=device, dtype=dtype)


BAD = {
    "target of int32": lambda d: functional.nll_loss(
        scores(d, 2, 3), classes(d, 2, dtype=torch.int32)
    ),
    "target size": lambda d: functional.nll_loss(scores(d, 2, 3), classes(d, 3)),
    "weight dtype": lambda d: functional.nll_loss(
        scores(d, 2, 3), classes(d, 2), scores(d, 3, dtype=torch.float64)
    ),
    "weight size": lambda d: functional.nll_loss(scores(d, 2, 3), classes(d, 2), scores(d, 4)),
    "scores of int": lambda d: functional.nll_loss(classes(d, 2, 3), classes(d, 2)),
    "smooth l1 of int": lambda d: functional.smooth_l1_loss(classes(d, 2), classes(d, 2)),
    "smooth l1 beta": lambda d: functional.smooth_l1_loss(scores(d, 2), scores(d, 2), beta=-1.0),
    "huber delta": lambda d: functional.huber_loss(scores(d, 2), scores(d, 2), delta=0.0),
    "mse of int": lambda d: functional.mse_loss(classes(d, 2), classes(d, 2)),
    "mse sizes": lambda d: torch.ops.aten.mse_loss(scores(d, 2, 3), scores(d, 4, 3)),
}


@pytest.mark.parametrize("name", BAD)
def test_errors_are_the_cpu_s(name):
    assert_same_error(BAD[name])


def test_a_target_out_of_range_is_raised_at_the_next_wait():
    for bad in (3, -1):
        with pytest.raises((IndexError, RuntimeError), match=r"out of (range|bounds)"):
            functional.nll_loss(scores("accel", 2, 3), torch.tensor([1, bad], device="accel"))
            torch.accel.synchronize()


def test_cross_entropy_is_recorded(counted):
    x = values((33, 65)).to("accel").requires_grad_()
    target = targets(33, 65).to("accel")
    weight = torch.rand(65).to("accel")
    torch.accel.synchronize()

    def steps():
        functional.cross_entropy(x, target).backward()
        functional.cross_entropy(x, target, weight).backward()
        functional.mse_loss(x, x.detach() + 1).backward()

    natively(counted, steps)


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weighted", [False, True])
def test_multi_margin(p, reduction, weighted):
    for dtype in (torch.float32, torch.float64):
        weight = torch.rand(5, dtype=dtype) if weighted else None

        def loss(x, target, weight=weight):
            weight = None if weight is None else weight.to(x.device)
            return functional.multi_margin_loss(x, target, p, 0.7, weight, reduction=reduction)

        x, target = torch.randn(40, 5, dtype=dtype), torch.randint(0, 5, (40,))
        assert_as_on_cpu(loss, x, target, backward=True)
        assert_as_on_cpu(loss, x[0], target[0], backward=True)


def test_multi_margin_errors():
    for call in [
        lambda x, target: functional.multi_margin_loss(x, target + 5),
        lambda x, target: functional.multi_margin_loss(x, target - 5),
        lambda x, target: functional.multi_margin_loss(x, target[:3]),
        lambda x, target: functional.multi_margin_loss(x.half(), target),
    ]:
        assert_same_error(
            lambda device: call(  # noqa: B023
                torch.zeros(4, 5, device=device), torch.tensor([0, 1, 2, 4], device=device)
            ),
            message=False,
        )
