"""Convolutions: what the operator database's samples leave out."""

import pytest
import torch
from compare import assert_as_on_cpu, natively, values
from torch.nn import functional

FORMATS = [torch.contiguous_format, torch.channels_last]


@pytest.mark.parametrize("weight_format", FORMATS, ids=str)
@pytest.mark.parametrize("input_format", FORMATS, ids=str)
@pytest.mark.parametrize("groups", [1, 20])
def test_results_have_the_cpus_memory_format(counted, groups, input_format, weight_format):
    inputs = [
        values((2, 20, 9, 9)).contiguous(memory_format=input_format),
        values((40 // (2 if groups > 1 else 1), 20 // groups, 3, 3)).contiguous(
            memory_format=weight_format
        ),
    ]

    def run(device):
        x, w = (t.to(device).requires_grad_() for t in inputs)
        y = functional.conv2d(x, w, padding=1, groups=groups)
        return [y, *torch.autograd.grad(y, [x, w], torch.ones_like(y))]

    results = natively(counted, lambda: run("accel"))
    for expected, got in zip(run("cpu"), results, strict=True):
        assert got.stride() == expected.stride()
        torch.testing.assert_close(got.cpu(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layout", ["transposed", "every other"])
def test_any_strides(layout):
    assert_as_on_cpu(
        lambda x, w, b: functional.conv2d(x, w, b, stride=2, padding=1).sum((2, 3)),
        values((3, 5, 8, 7)), values((6, 5, 3, 3)), values((6,)),
        layout=layout, backward=True, rtol=1e-4, atol=1e-4,
    )  # fmt: skip
