"""The CTC loss against the CPU's, with lengths on the host and on the device."""

import pytest
import torch
from compare import assert_as_on_cpu, assert_same_error, natively
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import ctc_loss


def problem(frames, batch, classes, most, seed=0):
    """Log probabilities [frames, batch, classes], padded targets and lengths."""
    generator = torch.Generator().manual_seed(seed)
    log_probs = torch.randn(frames, batch, classes, generator=generator).log_softmax(-1)
    targets = torch.randint(1, classes, (batch, most), generator=generator)
    inputs = torch.randint(min(frames, 2 * most), frames + 1, (batch,), generator=generator)
    labels = torch.randint(0, most + 1, (batch,), generator=generator)
    return log_probs, targets, inputs, labels


def concatenated(targets, lengths):
    return torch.cat([row[:n] for row, n in zip(targets, lengths.tolist(), strict=True)])


@settings(deadline=None, max_examples=30)
@given(
    frames=st.integers(1, 40),
    batch=st.integers(1, 5),
    classes=st.integers(2, 40),
    most=st.integers(1, 20),
    reduction=st.sampled_from(["none", "mean", "sum"]),
    is_concatenated=st.booleans(),
    where=st.sampled_from(["list", "cpu", "device"]),
)
def test_as_on_the_cpu(frames, batch, classes, most, reduction, is_concatenated, where):
    log_probs, targets, inputs, labels = problem(frames, batch, classes, most)
    if is_concatenated:
        targets = concatenated(targets, labels)

    def loss(log_probs, targets):
        lengths = [inputs, labels]
        if where == "list":
            lengths = [each.tolist() for each in lengths]
        elif where == "device":
            lengths = [each.to(log_probs.device) for each in lengths]
        return ctc_loss(log_probs, targets, *lengths, reduction=reduction, zero_infinity=True)

    assert_as_on_cpu(loss, log_probs, targets, backward=True, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("zero_infinity", [False, True])
def test_what_never_aligns(zero_infinity):
    log_probs = torch.randn(3, 2, 5, dtype=torch.float64).log_softmax(-1)
    targets = torch.tensor([[2, 2, 3], [1, 2, 3]])
    assert_as_on_cpu(
        lambda log_probs, targets: ctc_loss(
            log_probs, targets, (3, 3), (3, 3), reduction="none", zero_infinity=zero_infinity
        ),
        log_probs, targets, backward=True,
    )  # fmt: skip


@pytest.mark.parametrize("frames", [0, 2])
def test_samples_without_labels_or_frames(frames):
    log_probs = torch.randn(2, 2, 5).log_softmax(-1)
    assert_as_on_cpu(
        lambda log_probs, targets: ctc_loss(
            log_probs, targets, (frames, 2), (0, 1), reduction="sum", zero_infinity=True
        ),
        log_probs, torch.tensor([[1], [2]]), backward=True,
    )  # fmt: skip


def test_a_single_sample_and_another_blank():
    log_probs = torch.randn(7, 5).log_softmax(-1)
    assert_as_on_cpu(
        lambda log_probs, targets: ctc_loss(
            log_probs, targets, torch.tensor(7), torch.tensor(2), blank=3, reduction="none"
        ),
        log_probs, torch.tensor([1, 1]), backward=True,
    )  # fmt: skip


def test_nobody_waits_for_lengths_on_the_device(counted):
    arguments = [x.to("accel") for x in problem(30, 4, 20, 6)]
    log_probs = arguments[0].requires_grad_()
    torch.accel.synchronize()
    natively(counted, lambda: ctc_loss(log_probs, *arguments[1:]).backward())


def test_lengths_are_arguments_of_a_compiled_graph():
    torch._dynamo.reset()
    log_probs, targets, inputs, labels = problem(8, 3, 5, 4)
    moved = log_probs.to("accel"), targets.to("accel")
    compiled = torch.compile(ctc_loss, backend="accel")
    for there in (lambda x: x, lambda x: x.to("accel")):
        expected = ctc_loss(log_probs, targets, inputs, labels)
        result = compiled(*moved, there(inputs), there(labels)).cpu()
        torch.testing.assert_close(result, expected)


@pytest.mark.parametrize(
    "change",
    [
        lambda p, t, i, n: (p, t, [9, 4], n),
        lambda p, t, i, n: (p, t, [4], n),
        lambda p, t, i, n: (p, t, i, [2, 7]),
        lambda p, t, i, n: (p.half(), t, i, n),
        lambda p, t, i, n: (p, t[:, :1].reshape(-1), i, n),
    ],
)
def test_errors(change):
    def call(device):
        log_probs = torch.zeros(5, 2, 4, device=device)
        targets = torch.ones(2, 3, dtype=torch.int64, device=device)
        ctc_loss(*change(log_probs, targets, [5, 4], [2, 3]))

    assert_same_error(call, message=False)


@pytest.mark.parametrize("name", ["input", "target"])
def test_a_length_on_the_device_out_of_range(name):
    log_probs, targets, inputs, labels = (x.to("accel") for x in problem(8, 3, 5, 4))
    (inputs if name == "input" else labels)[1] = 99
    ctc_loss(log_probs, targets, inputs, labels)
    with pytest.raises(RuntimeError, match="ctc_loss on accel"):
        torch.accel.synchronize()
