"""Softmax, layer norm, RMS norm, batch norm, group norm and instance norm against the CPU, forward
and backward."""

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


# ---- batch norm, group norm, instance norm ----

IMAGES = [(4, 3), (4, 6, 5), (4, 6, 5, 5), (2, 3, 4, 5, 6), (3, 1, 7, 300), (9, 70, 9, 9)]
# The CPU adds up gradients of 16 bits in 16 bits.
IMAGE_LIMITS = {torch.bfloat16: 6e-2, torch.float16: 1e-2, torch.float32: 2e-4, torch.float64: 1e-9}


def running(x, dtype=None):
    """A running mean and variance for x, away from 0 and 1."""
    size = x.shape[1]
    start = torch.linspace(0.1, 0.5, size, dtype=torch.float64)
    return tuple(s.to(dtype or x.dtype).to(x.device) for s in (start, start + 1))


def as_on_cpu(function, *inputs):
    limit = IMAGE_LIMITS[inputs[0].dtype]
    assert_as_on_cpu(function, *inputs, backward=True, rtol=limit, atol=limit)


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("parameters", ["both", "weight", "none"])
@pytest.mark.parametrize("shape", IMAGES, ids=str)
def test_batch_norm(shape, parameters, dtype):
    names = {"both": ("weight", "bias"), "weight": ("weight",), "none": ()}[parameters]
    inputs = [values(shape, dtype), *(values(shape[1:2], dtype) for _ in names)]

    def train(x, *p):
        mean, var = running(x)
        given = dict(zip(names, p, strict=True))
        return functional.batch_norm(x, mean, var, **given, training=True, momentum=0.3), mean, var

    def evaluate(x, *p):
        given = dict(zip(names, p, strict=True))
        return functional.batch_norm(x, *running(x), **given, eps=1e-3)

    def without_statistics(x, *p):
        given = dict(zip(names, p, strict=True))
        return functional.batch_norm(x, None, None, **given, training=True)

    for function in (train, evaluate, without_statistics):
        as_on_cpu(function, *inputs)


@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_of_16_bits_with_fp32_parameters(training):
    def function(x, w, b):
        statistics = running(x, torch.float32)
        y = functional.batch_norm(x, *statistics, w, b, training)
        assert y.dtype == torch.bfloat16
        return y, *statistics

    as_on_cpu(function, values((4, 6, 5, 5), torch.bfloat16), values((6,)), values((6,)))


FORMATS = {
    "channels last": lambda x: x.to(memory_format=torch.channels_last),
    "transposed": lambda x: x.transpose(0, 3).contiguous().transpose(0, 3),
    "every other": lambda x: torch.stack([x, x], -1)[..., 1],
    "broadcast": lambda x: x[:, :, :1].expand(x.shape),
}


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("shape", [(4, 6, 5, 5), (9, 70, 31, 17)], ids=str)
def test_norms_of_images_of_any_layout(shape, layout):
    channels = shape[1]

    def batch(x, w, b, training):
        statistics = running(x)
        y = functional.batch_norm(FORMATS[layout](x), *statistics, w, b, training)
        return y, *statistics

    def group(x, w, b):
        return functional.group_norm(FORMATS[layout](x), 2, w, b)

    def instance(x, w, b):
        return functional.instance_norm(FORMATS[layout](x), None, None, w, b)

    inputs = values(shape), values((channels,)), values((channels,))
    as_on_cpu(lambda *p: batch(*p, True), *inputs)
    as_on_cpu(lambda *p: batch(*p, False), *inputs)
    as_on_cpu(group, *inputs)
    as_on_cpu(instance, *inputs)


def test_a_layout_changes_no_bit():
    x = values((9, 70, 31, 17)).to("accel")
    grad = values(x.shape).to("accel")
    w = values((70,)).to("accel")
    results = []
    for layout in (torch.contiguous_format, torch.channels_last):
        a = x.to(memory_format=layout).requires_grad_()
        p = w.clone().requires_grad_()
        y = functional.batch_norm(a, None, None, p, training=True)
        assert y.is_contiguous(memory_format=layout)
        z = functional.group_norm(a, 7, p)
        results.append((y, z, *torch.autograd.grad((y, z), (a, p), (grad, grad))))
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


def test_what_batch_norm_saves():
    x = values((4, 6, 5), torch.bfloat16).to("accel")
    mean, var = running(x)
    _, saved, rstd = torch.native_batch_norm(x, None, None, mean, var, True, 0.1, 1e-5)
    assert saved.shape == rstd.shape == (6,)
    assert saved.dtype == rstd.dtype == torch.float32
    torch.testing.assert_close(saved.cpu(), x.cpu().float().mean((0, 2)))
    # Evaluation has nothing to save, as on the CPU.
    _, saved, rstd = torch.native_batch_norm(x, None, None, mean, var, False, 0.1, 1e-5)
    assert saved.shape == rstd.shape == (0,)


def test_running_statistics_that_are_read_on_are_read_once():
    # What was stored over its own input may not be computed again from it.
    x, y = values((40, 300)) + 1, values((40, 300)) + 1

    def function(device):
        a, b, moving = (t.to(device) for t in (x, y, torch.ones(40)))
        statistics = running(a.t())
        torch.accel.synchronize()
        product = a * b
        moving.add_(product.mean(1))
        first = moving * product.var(1)
        functional.batch_norm(product.t(), *statistics, training=True, momentum=0.5)
        return first, moving, statistics[0] / statistics[1].sqrt(), *statistics

    for e, g in zip(function("cpu"), function("accel"), strict=True):
        torch.testing.assert_close(g.cpu(), e, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("training", [True, False])
def test_update_of_statistics_alone(training):
    def function(x):
        mean, var = running(x) if training else (None, None)
        return *torch.batch_norm_update_stats(x, mean, var, 0.2), mean, var

    x = values((4, 6, 5))
    for e, g in zip(function(x), function(x.to("accel")), strict=True):
        assert e is g is None or torch.testing.assert_close(g.cpu(), e) is None


def test_constant_channels_without_eps_give_their_bias():
    x = torch.ones(4, 3, 5)
    assert_as_on_cpu(
        lambda x, b: torch.batch_norm(x, None, b, None, None, True, 0.1, 0.0, False), x,
        values((3,)),
    )  # fmt: skip


def test_large_means_keep_small_variances():
    x = values((8, 3, 50)) * 1e-2 + 1e3
    got = functional.batch_norm(x.to("accel"), None, None, training=True)
    exact = functional.batch_norm(x.double(), None, None, training=True)
    torch.testing.assert_close(got.cpu().double(), exact, rtol=0, atol=2e-2)


def test_only_the_wanted_gradients_of_batch_norm(counted):
    x, g = values((4, 6, 5)), values((4, 6, 5))
    w = values((6,))
    for training in (True, False):
        for wanted in ([1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 1, 1], [1, 0, 1]):
            mask = [bool(i) for i in wanted]

            def backward(device, training=training, mask=mask):
                saved = torch.native_batch_norm(
                    x.to(device), w.to(device), None, *running(x.to(device)), training, 0.1, 1e-5
                )[1:]
                return torch.ops.aten.native_batch_norm_backward(
                    g.to(device), x.to(device), w.to(device), *running(x.to(device)), *saved,
                    training, 1e-5, mask,
                )  # fmt: skip

            for e, got, is_wanted in zip(backward("cpu"), backward("accel"), mask, strict=True):
                assert (got is not None) == is_wanted
                if is_wanted:
                    torch.testing.assert_close(got.cpu(), e, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", FLOATING, ids=str)
@pytest.mark.parametrize("groups", ["one", "two", "all"])
@pytest.mark.parametrize("shape", [(3, 4), (4, 6, 5), (4, 6, 5, 5), (2, 4, 3, 20, 30)], ids=str)
def test_group_norm(shape, groups, dtype):
    channels = shape[1]
    count = {"one": 1, "two": 2, "all": channels}[groups]
    inputs = values(shape, dtype), values((channels,), dtype), values((channels,), dtype)
    as_on_cpu(lambda x, w, b: functional.group_norm(x, count, w, b), *inputs)
    as_on_cpu(lambda x, w: functional.group_norm(x, count, w), *inputs[:2])
    as_on_cpu(lambda x: functional.group_norm(x, count), inputs[0])


def test_group_norm_of_16_bits_with_fp32_parameters():
    as_on_cpu(
        lambda x, w, b: functional.group_norm(x, 3, w, b), values((4, 6, 5), torch.bfloat16),
        values((6,)), values((6,)),
    )  # fmt: skip


@pytest.mark.parametrize("statistics", [True, False])
def test_instance_norm(statistics):
    def function(x, w, b):
        given = running(x) if statistics else (None, None)
        return functional.instance_norm(x, *given, w, b), *(given if statistics else ())

    as_on_cpu(function, values((4, 6, 5, 5)), values((6,)), values((6,)))
    if statistics:
        as_on_cpu(
            lambda x: functional.instance_norm(x, *running(x), use_input_stats=False),
            values((4, 6, 5)),
        )


def test_norms_of_nothing():
    as_on_cpu(lambda x, w: functional.group_norm(x, 2, w), values((0, 4, 3)), values((4,)))
    for shape in [(0, 4, 3), (2, 4, 0)]:
        for training in (True, False):
            as_on_cpu(
                lambda x, w, training=training: torch.batch_norm(
                    x, w, None, *running(x), training, 0.1, 1e-5, False
                ),
                values(shape), values((4,)),
            )  # fmt: skip


BITS = """
    import hashlib, torch, torch_accel
    from torch.nn import functional
    torch.manual_seed(0)
    digest = hashlib.sha256()
    for shape in [(16, 70, 32, 32), (3, 5, 1000, 33), (64, 256), (8, 300, 4, 4)]:
        for dtype in (torch.float32, torch.bfloat16):
            for layout in (torch.contiguous_format, torch.channels_last):
                x, g = (torch.randn(shape, device="accel").to(dtype) for _ in range(2))
                if x.dim() == 4:
                    x = x.to(memory_format=layout)
                x.requires_grad_()
                groups = 5 if shape[1] % 5 == 0 else 4
                w = torch.randn(shape[1], device="accel", requires_grad=True)
                mean, var = torch.zeros_like(w).detach(), torch.ones_like(w).detach()
                for function in (
                    lambda: functional.batch_norm(x * 2, mean, var, w, w, True).relu(),
                    lambda: functional.batch_norm(x * 2, mean, var, w, w, False).relu(),
                    lambda: functional.group_norm(x * 2, groups, w, w).relu(),
                ):
                    y = function()
                    for t in (y, mean, var, *torch.autograd.grad(y, (x, w), g)):
                        digest.update(t.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    print(digest.hexdigest())
"""


def test_bits_of_norms_depend_on_neither_fusion_nor_threads(run_python):
    settings = [("1", "2"), ("0", "2"), ("1", "1"), ("0", "1")]
    digests = [run_python(BITS, ACCEL_FUSION=f, OMP_NUM_THREADS=n) for f, n in settings]
    assert len(digests[0]) > 60 and digests == digests[:1] * 4


@pytest.mark.parametrize("training", [True, False])
def test_second_derivatives_of_norms_of_images(training):
    x, w, b = values((3, 4, 5), torch.float64), values((4,), torch.float64), values((4,)).double()
    for function in [
        lambda x, w, b: functional.batch_norm(x, *running(x), w, b, training),
        lambda x, w, b: functional.group_norm(x, 2, w, b),
    ]:

        def penalty(x, w, b, function=function):
            y = function(x, w, b).sin().sum()
            grads = torch.autograd.grad(y, [x, w, b], create_graph=True)
            return sum(g.square().sum() for g in grads)

        assert_as_on_cpu(penalty, x, w, b, backward=True, rtol=1e-8, atol=1e-8)


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
    "batch_norm of int": lambda d: functional.batch_norm(
        ones(d, 2, 3, dtype=torch.int64), None, None, training=True
    ),
    "batch_norm weight": lambda d: functional.batch_norm(
        ones(d, 2, 3), None, None, ones(d, 4), training=True
    ),
    "batch_norm mixed": lambda d: functional.batch_norm(
        ones(d, 2, 3), None, None, ones(d, 3, dtype=torch.bfloat16), training=True
    ),
    "batch_norm running": lambda d: functional.batch_norm(ones(d, 2, 3), ones(d, 4), ones(d, 3)),
    "batch_norm of one": lambda d: functional.batch_norm(ones(d, 1, 3), None, None, training=True),
    "batch_norm without statistics": lambda d: functional.batch_norm(ones(d, 2, 3), None, None),
    "group_norm groups": lambda d: functional.group_norm(ones(d, 2, 3), 2),
    "group_norm weight": lambda d: functional.group_norm(ones(d, 2, 4), 2, ones(d, 3)),
    "group_norm of int": lambda d: functional.group_norm(ones(d, 2, 4, dtype=torch.int64), 2),
    "group_norm mixed": lambda d: functional.group_norm(
        ones(d, 2, 4, dtype=torch.bfloat16), 2, ones(d, 4, dtype=torch.float16)
    ),
    "instance_norm of one": lambda d: functional.instance_norm(ones(d, 2, 3, 1)),
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
    statistics = running(x)
    torch.accel.synchronize()

    def steps():
        functional.layer_norm(x, (33,), w, w).sum().backward()
        functional.rms_norm(x, (33,), w).sum().backward()
        x.softmax(0).sum().backward()
        x.log_softmax(1).sum().backward()
        for training in (True, False):
            functional.batch_norm(x, *statistics, w, w, training).sum().backward()
        functional.group_norm(x, 3, w, w).sum().backward()
        functional.instance_norm(x[None]).sum().backward()

    natively(counted, steps)
