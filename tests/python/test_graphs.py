"""Graphs captured from eager code and replayed: torch.accelerator.Graph and torch.accel's names."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional


def _network() -> nn.Module:
    return nn.Sequential(
        nn.Linear(32, 64), nn.GELU(), nn.Dropout(0.1), nn.LayerNorm(64), nn.Linear(64, 4)
    ).to("accel")


def _loss(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return functional.cross_entropy(model(x), y)


def test_nothing_runs_before_the_replay():
    x = torch.zeros(2000, device="accel")
    captured = torch.accelerator.Graph()
    with torch.Stream(device="accel"), captured:
        assert torch.accel.is_current_stream_capturing()
        x += 1
    assert not torch.accel.is_current_stream_capturing()
    assert x.sum().item() == 0
    captured.replay()
    captured.replay()
    assert x.sum().item() == 4000


def test_a_replayed_training_step_is_the_eager_one():
    model = _network()
    twin = copy.deepcopy(model)
    x, y = torch.randn(16, 32, device="accel"), torch.randint(0, 4, (16,), device="accel")
    batches = torch.randn(5, 16, 32)

    def step(model, optimizer):
        optimizer.zero_grad()
        loss = _loss(model, x, y)
        loss.backward()
        optimizer.step()
        return loss.detach()

    optimizers = [torch.optim.AdamW(m.parameters(), lr=1e-2, fused=True) for m in (model, twin)]
    for _ in range(2):
        for one, optimizer in zip((model, twin), optimizers, strict=True):
            torch.manual_seed(1)
            step(one, optimizer)
    captured = torch.accel.Graph()
    with torch.accel.graph(captured):
        loss = step(model, optimizers[0])

    def losses(run):
        torch.manual_seed(2)
        for batch in batches:
            x.copy_(batch)
            yield run().item()

    def replay():
        captured.replay()
        return loss

    assert list(losses(replay)) == list(losses(lambda: step(twin, optimizers[1])))
    for parameter, other in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(parameter, other)


def test_a_replay_is_one_call():
    x = torch.randn(64, 64, device="accel")
    captured = torch.accel.Graph()
    with torch.accel.graph(captured):
        y = x
        for _ in range(50):
            y = torch.tanh(y @ x)
    torch.accel.synchronize()
    torch.accel.reset_counters()
    captured.replay()
    torch.accel.synchronize()
    counters = torch.accel.counters()
    assert (counters["regions"], counters["nodes"], counters["segments"]) == (1, 0, 0)
    expected = x
    for _ in range(50):
        expected = torch.tanh(expected @ x)
    assert torch.equal(y, expected)


def test_temporaries_share_memory_between_replays():
    x = torch.randn(1 << 20, device="accel")
    captured = torch.accel.Graph()
    with torch.accel.graph(captured):
        y = x
        for _ in range(8):
            y = torch.cumsum(y, 0)
    del x
    captured.replay()
    torch.accel.synchronize()
    before = torch.accel.memory_allocated()
    torch.accel.reset_peak_memory_stats()
    for _ in range(3):
        captured.replay()
        torch.accel.synchronize()
    assert torch.accel.memory_allocated() == before
    # A cumulative sum reads one tensor and writes another: two of them at once, not eight.
    assert torch.accel.max_memory_allocated() - before <= 2 * y.nbytes + 4096


@pytest.mark.parametrize(
    "ask", [lambda x: x.sum().item(), lambda x: x.cpu(), lambda x: x.nonzero(), torch.unique]
)
def test_a_value_cannot_be_asked_for_while_capturing(ask):
    x = torch.ones(8, device="accel")
    captured = torch.accel.Graph()
    refused = pytest.raises(RuntimeError, match="not permitted when stream is capturing")
    with refused, torch.accel.graph(captured):
        ask(x + 1)
    assert (x + 1).sum().item() == 16
    with torch.accel.graph(captured):
        y = x + 2
    captured.replay()
    assert y.sum().item() == 24


def test_each_generator_goes_on_with_every_replay():
    generators = [torch.Generator("accel").manual_seed(7) for _ in range(2)]
    captured = torch.accel.Graph()
    with torch.accel.graph(captured):
        drawn = torch.rand(8, device="accel", generator=generators[0])
        other = torch.rand(8, device="accel")
    torch.manual_seed(3)
    got = []
    for _ in range(3):
        captured.replay()
        got.append((drawn.clone(), other.clone()))
    torch.manual_seed(3)
    for drawn, other in got:
        assert torch.equal(drawn, torch.rand(8, device="accel", generator=generators[1]))
        assert torch.equal(other, torch.rand(8, device="accel"))


def test_random_numbers_made_on_the_host_are_refused():
    refused = pytest.raises(RuntimeError, match="not permitted when stream is capturing")
    with refused, torch.accel.graph(torch.accel.Graph()):
        torch.ones(8, device="accel").multinomial(2)


def test_misuse_is_refused(tmp_path):
    captured = torch.accel.Graph()
    with pytest.raises(RuntimeError, match="without a preceding successful capture"):
        captured.replay()
    with pytest.raises(RuntimeError, match="without capture_begin"):
        captured.capture_end()
    x = torch.ones(4, device="accel")
    with torch.accel.graph(captured):
        with pytest.raises(RuntimeError, match="already being captured"):
            torch.accel.Graph().capture_begin()
        y = x.exp() + 1
    with pytest.raises(RuntimeError, match="reset"):
        captured.capture_begin()
    captured.debug_dump(str(tmp_path / "graph.txt"))
    # On one line where they are fused.
    assert (tmp_path / "graph.txt").read_text().replace("\n", "+") == "Exp+Add+"
    captured.replay()
    torch.testing.assert_close(y, x.exp() + 1)


def test_an_index_out_of_range_is_raised_at_the_next_wait():
    table, index = torch.randn(4, 8, device="accel"), torch.zeros(3, dtype=int, device="accel")
    captured = torch.accel.Graph()
    with torch.accel.graph(captured):
        y = functional.embedding(index, table)
    index.fill_(9)
    captured.replay()
    with pytest.raises(IndexError, match="out of range"):
        torch.accel.synchronize()
    index.fill_(2)
    captured.replay()
    assert torch.equal(y, table[2].expand(3, 8))


def test_graphed_callables_have_the_gradients_of_eager_ones():
    model = _network()
    twin = copy.deepcopy(model)
    y = torch.randint(0, 4, (16,), device="accel")
    sample = torch.randn(16, 32, device="accel", requires_grad=True)
    graphed = torch.accel.make_graphed_callables(model, (sample,))
    assert graphed is model
    for seed in range(3):
        x = torch.randn(16, 32, device="accel", requires_grad=True)
        other = x.detach().clone().requires_grad_()
        torch.manual_seed(seed)
        _loss(graphed, x, y).backward()
        torch.manual_seed(seed)
        _loss(twin, other, y).backward()
        assert torch.equal(x.grad, other.grad)
        for parameter, its_twin in zip(model.parameters(), twin.parameters(), strict=True):
            assert torch.equal(parameter.grad, its_twin.grad)
    graphed.eval(), twin.eval()
    assert torch.equal(graphed(x), twin(x))


def test_graphed_callables_nest_and_refuse():
    def scaled(pair, scale):
        return {"sum": pair[0] + pair[1], "scaled": pair[0] * scale}

    def arguments(value):
        fill = lambda: torch.full((3,), value, device="accel")  # noqa: E731
        return (fill(), fill()), fill()

    double, graphed = torch.accel.make_graphed_callables(
        (lambda x: 2 * x, scaled), ((torch.ones(3, device="accel"),), arguments(1.0))
    )
    result = graphed(*arguments(3.0))
    assert result["sum"].tolist() == [6] * 3 and result["scaled"].tolist() == [9] * 3
    assert double(result["sum"]).tolist() == [12] * 3
    with pytest.raises(ValueError, match=r"shape \(3,\), got torch.float32 of shape \(4,\)"):
        double(torch.ones(4, device="accel"))
    with pytest.raises(ValueError, match="nested"):
        graphed(torch.ones(3, device="accel"))
    with pytest.raises(ValueError, match="must be tensors"):
        torch.accel.make_graphed_callables(scaled, (1, 2))
    hooked = nn.Linear(3, 3).to("accel")
    hooked.register_forward_hook(lambda *_: None)
    with pytest.raises(RuntimeError, match="hooks"):
        torch.accel.make_graphed_callables(hooked, (torch.ones(3, device="accel"),))
