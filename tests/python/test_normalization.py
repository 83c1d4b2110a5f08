"""Softmax, layer norm and RMS norm against the CPU, forward and backward."""

import math

import pytest
import torch
from compare import FLOATING, LAYOUTS, assert_as_on_cpu, assert_same_error, natively, values
from torch.nn import functional

SHAPES = [(), (1,), (7,), (3, 5), (5, 1), (4, 65, 3), (2, 3, 4, 300), (0, 3), (3, 0)]


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_softmax(name, shape, dtype):
    function = getattr(torch, name)
    x = values(shape, dtype) * 3
    for dim in range(max(len(shape), 1)):
        assert_as_on_cpu(lambda x, d=dim: function(x, d), x, backward=True)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_softmax_of_any_layout(name, layout):
    function = getattr(torch, name)
    for dim in range(3):
        assert_as_on_cpu(
            lambda x, d=dim: function(x, d), values((4, 9, 33)), layout=layout, backward=True
        )


def test_softmax_of_large_and_infinite_scores():
    x = torch.tensor([[1e30, -1e30, 0.0], [-math.inf, 0.0, 1.0], [-math.inf] * 3, [math.inf, 0, 1]])
    assert_as_on_cpu(lambda x: (x.softmax(1), x.log_softmax(1)), x)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_softmax_into_fp32(dtype):
    x = values((4, 9), dtype)
    assert_as_on_cpu(lambda x: x.softmax(1, dtype=torch.float32), x, backward=True)
    assert_as_on_cpu(lambda x: x.log_softmax(0, dtype=torch.float32), x, backward=True)
    # As CUDA does it: one kernel that reads 16 bits and writes 32.
    got = torch._softmax(x.to("accel"), 1, True)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.cpu(), x.float().softmax(1))


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_softmax_writes_to_out(name):
    x = values((4, 9)).to("accel")
    function = {"softmax": torch._softmax, "log_softmax": torch._log_softmax}[name]
    expected = getattr(torch, name)(x.cpu(), 0)
    out = torch.empty(9, 4, device="accel").t()
    function(x, 0, False, out=out)
    torch.testing.assert_close(out.cpu(), expected)
    torch.testing.assert_close(function(x, 0, False, out=x).cpu(), expected)


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("parameters", ["both", "weight", "none"])
@pytest.mark.parametrize(
    ("shape", "normalized"),
    [((3, 5), 1), ((7,), 1), ((4, 3, 65), 1), ((4, 3, 65), 2), ((2, 300), 1), ((0, 5), 1)],
    ids=str,
)
def test_layer_norm(shape, normalized, parameters, dtype):
    inner = shape[len(shape) - normalized :]
    inputs = [values(shape, dtype)]
    if parameters != "none":
        inputs.append(values(inner, dtype))
    if parameters == "both":
        inputs.append(values(inner, dtype))
    # The CPU adds gradients of many rows in 16 bits; a looser limit is theirs, not ours.
    limit = {torch.bfloat16: 0.06, torch.float16: 0.01, torch.float32: 1e-4}.get(dtype)
    assert_as_on_cpu(
        lambda x, *p: functional.layer_norm(x, inner, *p), *inputs, backward=True, rtol=limit,
        atol=limit,
    )  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layer_norm_of_any_layout(layout):
    inputs = values((6, 9, 33)), values((33,)), values((33,))
    assert_as_on_cpu(
        lambda x, w, b: functional.layer_norm(x, (33,), w, b), *inputs, layout=layout,
        backward=True, rtol=1e-4, atol=1e-4,
    )  # fmt: skip


def test_layer_norm_of_16_bits_with_fp32_parameters():
    inputs = values((6, 33), torch.bfloat16), values((33,)), values((33,))
    assert_as_on_cpu(
        lambda x, w, b: functional.layer_norm(x, (33,), w, b), *inputs, backward=True, rtol=3e-2,
        atol=3e-2,
    )  # fmt: skip


def test_statistics_of_16_bit_inputs_are_fp32():
    x = values((6, 33), torch.bfloat16).to("accel")
    _, mean, rstd = torch.native_layer_norm(x, (33,), None, None, 1e-5)
    assert (mean.shape, mean.dtype, rstd.dtype) == ((6, 1), torch.float32, torch.float32)
    torch.testing.assert_close(mean.cpu(), x.cpu().float().mean(1, keepdim=True))


def test_only_the_wanted_gradients_are_computed(counted):
    x = values((6, 33)).to("accel")
    weight = values((33,)).to("accel").requires_grad_()
    grads = torch.autograd.grad(functional.layer_norm(x, (33,), weight).sum(), [weight])
    torch.testing.assert_close(
        grads[0].cpu(), functional.layer_norm(x, (33,)).sum(0).cpu(), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("with_weight", [True, False])
@pytest.mark.parametrize("eps", [None, 1e-3])
@pytest.mark.parametrize(
    ("shape", "normalized"), [((3, 5), 1), ((4, 3, 65), 2), ((2, 300), 1), ((0, 5), 1)], ids=str
)
def test_rms_norm(shape, normalized, eps, with_weight, dtype):
    inner = shape[len(shape) - normalized :]
    inputs = [values(shape, dtype)] + ([values(inner, dtype)] if with_weight else [])
    limit = {torch.bfloat16: 0.05, torch.float16: 0.01, torch.float32: 1e-4}.get(dtype)
    assert_as_on_cpu(
        lambda x, *w: functional.rms_norm(x, inner, *w, eps=eps), *inputs, backward=True,
        rtol=limit, atol=limit,
    )  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_rms_norm_of_any_layout(layout):
    assert_as_on_cpu(
        lambda x, w: functional.rms_norm(x, (33,), w), values((6, 9, 33)), values((33,)),
        layout=layout, backward=True, rtol=1e-4, atol=1e-4,
    )  # fmt: skip


def test_rms_norm_with_a_weight_of_another_dtype():
    assert_as_on_cpu(
        lambda x, w: functional.rms_norm(x, (33,), w), values((6, 33), torch.bfloat16),
        values((33,)), rtol=2e-2, atol=2e-2,
    )  # fmt: skip


def test_second_derivatives():
    x, w = values((3, 8), torch.float64), values((8,), torch.float64)
    for function in [
        lambda x, w: functional.layer_norm(x, (8,), w),
        lambda x, w: functional.rms_norm(x, (8,), w),
        lambda x, w: (x * w).softmax(1),
        lambda x, w: (x * w).log_softmax(0),
    ]:

        def penalty(x, w, function=function):
            grads = torch.autograd.grad(function(x, w).square().sum(), [x, w], create_graph=True)
            return sum(g.square().sum() for g in grads)

        assert_as_on_cpu(penalty, x, w, backward=True, rtol=1e-8, atol=1e-8)


def test_batch_and_group_norm_work():
    x = values((4, 6, 5, 5))
    batch = lambda x: functional.batch_norm(x, None, None, training=True)  # noqa: E731
    group = lambda x: functional.group_norm(x, 3)  # noqa: E731
    assert_as_on_cpu(batch, x, backward=True, rtol=1e-3, atol=1e-3)
    assert_as_on_cpu(group, x, backward=True, rtol=1e-3, atol=1e-3)


def ones(device, *shape, dtype=torch.float32):
    return torch.ones(*shape, device=device, dtype=dtype)


BAD = {
    "softmax of int": lambda d: ones(d, 2, 3, dtype=torch.int64).softmax(0),
    "softmax of int, last": lambda d: ones(d, 2, 3, dtype=torch.int64).softmax(1),
    "log_softmax of int": lambda d: ones(d, 2, 3, dtype=torch.int64).log_softmax(0),
    "softmax dim": lambda d: ones(d, 2, 3).softmax(2),
    "layer_norm shape": lambda d: functional.layer_norm(ones(d, 2, 3), (4,)),
    "layer_norm weight": lambda d: functional.layer_norm(ones(d, 2, 3), (3,), ones(d, 4)),
    "layer_norm of int": lambda d: functional.layer_norm(ones(d, 2, 3, dtype=torch.int64), (3,)),
    "layer_norm mixed": lambda d: functional.layer_norm(
        ones(d, 2, 3), (3,), ones(d, 3, dtype=torch.bfloat16)
    ),
    "layer_norm mixed, double": lambda d: functional.layer_norm(
        ones(d, 2, 3, dtype=torch.float64), (3,), ones(d, 3)
    ),
    "rms_norm shape": lambda d: functional.rms_norm(ones(d, 2, 3), (4,)),
    "rms_norm of int": lambda d: functional.rms_norm(ones(d, 2, 3, dtype=torch.int64), (3,)),
}


@pytest.mark.parametrize("name", BAD)
def test_errors_are_the_cpu_s(name):
    assert_same_error(BAD[name])


def test_parameters_on_another_device_are_an_error():
    with pytest.raises(RuntimeError, match="same device"):
        functional.layer_norm(ones("accel", 2, 3), (3,), ones("cpu", 3))


def test_norms_are_recorded(counted):
    x = values((6, 33)).to("accel").requires_grad_()
    w = values((33,)).to("accel").requires_grad_()
    torch.accel.synchronize()

    def steps():
        functional.layer_norm(x, (33,), w, w).sum().backward()
        functional.rms_norm(x, (33,), w).sum().backward()
        x.softmax(0).sum().backward()
        x.log_softmax(1).sum().backward()

    natively(counted, steps)
