"""Pooling, resampling, folding and grid sampling against the CPU, in the layouts of images."""

import pytest
import torch
from compare import TOLERANCES
from torch.nn import functional

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]


def unpooled(x):
    return functional.max_unpool2d(*functional.max_pool2d(x, 2, return_indices=True), 2)


IMAGE = {
    "max": lambda x: functional.max_pool2d(x, 3, 2, 1),
    "max ceil": lambda x: functional.max_pool2d(x, 3, 2, 1, ceil_mode=True),
    "average": lambda x: functional.avg_pool2d(x, 3, 2, 1),
    "average of what is there": lambda x: functional.avg_pool2d(
        x, 3, 2, 1, count_include_pad=False
    ),
    "average ceil": lambda x: functional.avg_pool2d(x, 3, 2, ceil_mode=True, divisor_override=5),
    "adaptive average": lambda x: functional.adaptive_avg_pool2d(x, (4, 3)),
    "adaptive max": lambda x: functional.adaptive_max_pool2d(x, (4, 3)),
    "unpool": lambda x: functional.max_unpool2d(
        *functional.max_pool2d(x, 2, return_indices=True), 2
    ),
    "nearest": lambda x: functional.interpolate(x, scale_factor=2),
    "nearest-exact": lambda x: functional.interpolate(x, size=(5, 20), mode="nearest-exact"),
    "bilinear": lambda x: functional.interpolate(x, scale_factor=2.3, mode="bilinear"),
    "bilinear corners": lambda x: functional.interpolate(
        x, (5, 20), mode="bilinear", align_corners=True
    ),
    "bicubic": lambda x: functional.interpolate(x, (5, 20), mode="bicubic"),
}
VOLUME = {
    "max": lambda x: functional.max_pool3d(x, 3, 2, 1),
    "average": lambda x: functional.avg_pool3d(x, 2),
    "adaptive average": lambda x: functional.adaptive_avg_pool3d(x, (2, 4, 3)),
    "adaptive max": lambda x: functional.adaptive_max_pool3d(x, (2, 4, 3)),
    "nearest": lambda x: functional.interpolate(x, scale_factor=2),
    "trilinear": lambda x: functional.interpolate(x, scale_factor=2, mode="trilinear"),
}
# The CPU has no 16-bit kernels for it.
WIDE_ONLY = {"average"}


def check(op, x, dtype):
    expected_in = x.clone().requires_grad_()
    actual_in = x.to("accel").requires_grad_()
    expected, actual = op(expected_in), op(actual_in)
    assert actual.stride() == expected.stride()
    rtol, atol = TOLERANCES[dtype]
    torch.testing.assert_close(actual.cpu(), expected, rtol=rtol, atol=atol)
    # Whole numbers, so that sums of many are close in 16 bits too.
    grad = torch.randint(-2, 3, expected.shape).to(dtype)
    expected.backward(grad)
    actual.backward(grad.to("accel"))
    assert actual_in.grad.stride() == expected_in.grad.stride()
    rtol, atol = (4 * rtol, 4 * atol) if dtype.itemsize == 2 else (rtol, atol)
    torch.testing.assert_close(actual_in.grad.cpu(), expected_in.grad, rtol=rtol, atol=atol)


def check_native(op, x):
    torch.accel.synchronize()
    torch.accel.reset_counters()
    op(x.to("accel"))
    torch.accel.synchronize()
    report = torch.accel.report()
    assert not report.get("host_op") and not report.get("fallback")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("name", IMAGE)
def test_image(name, layout, dtype):
    x = torch.randn(2, 19, 9, 14).to(dtype).contiguous(memory_format=layout)
    check(IMAGE[name], x, dtype)
    check_native(IMAGE[name], x)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d], ids=str)
@pytest.mark.parametrize("name", VOLUME)
def test_volume(name, layout, dtype):
    if name in WIDE_ONLY and dtype.itemsize == 2:
        pytest.skip("the CPU has no such kernel")
    x = torch.randn(2, 19, 5, 6, 7).to(dtype).contiguous(memory_format=layout)
    check(VOLUME[name], x, dtype)
    check_native(VOLUME[name], x)


def test_indices_of_ties_and_nan():
    x = torch.randint(0, 3, (3, 40, 9, 11)).float()
    x[0, 3, 4, 5] = x[0, 3, 4, 6] = x[1, 0, 0, 0] = float("nan")
    x[2, 5] = -float("inf")
    for layout in (torch.contiguous_format, torch.channels_last):
        image = x.contiguous(memory_format=layout)
        for op in (
            lambda x: functional.max_pool2d(x, 3, 2, 1, return_indices=True),
            lambda x: functional.max_pool2d(x, 2, 1, 1, 2, return_indices=True),
            lambda x: functional.adaptive_max_pool2d(x, 4, return_indices=True),
        ):
            for actual, expected in zip(op(image.to("accel")), op(image), strict=True):
                torch.testing.assert_close(actual.cpu(), expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_fold_and_unfold(dtype):
    x = torch.randn(2, 5, 9, 14).to(dtype)
    check(lambda x: functional.unfold(x, 3, padding=1, stride=2), x, dtype)
    check(lambda x: functional.fold(functional.unfold(x, (2, 3), 2), (9, 14), (2, 3), 2), x, dtype)
    for dim in range(4):
        for step in (1, 2, 5):
            check(lambda x, dim=dim, step=step: x.unfold(dim, 2, step) * 2, x, dtype)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("mode", ["bilinear", "nearest", "bicubic"])
def test_grid_sample(mode, padding, align_corners):
    for sizes, places in (((9, 14), (5, 60)), ((4, 5, 6), (3, 7, 20))):
        if len(sizes) == 3 and mode == "bicubic":
            continue
        x, grid = torch.randn(2, 21, *sizes), torch.rand(2, *places, len(sizes)) * 3 - 1.5
        results = []
        for device in ("cpu", "accel"):
            inputs = [t.to(device).detach().clone().requires_grad_() for t in (x, grid)]
            out = functional.grid_sample(
                *inputs, mode=mode, padding_mode=padding, align_corners=align_corners
            )
            out.backward(torch.ones_like(out))
            results.append([out, *(t.grad for t in inputs)])
        for expected, actual in zip(*results, strict=True):
            torch.testing.assert_close(actual.cpu(), expected, rtol=1e-4, atol=2e-4)


def test_unpool_out_of_range_raises():
    x, indices = torch.ones(1, 1, 1, 2), torch.tensor([[[[0, 16]]]])
    out = torch.ops.aten.max_unpool2d(x.to("accel"), indices.to("accel"), (4, 4))
    with pytest.raises(RuntimeError, match="out of range"):
        out.cpu()
