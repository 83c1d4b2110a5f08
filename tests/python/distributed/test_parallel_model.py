"""A model divided between ranks trains as one process does: tensor, sequence, pipeline, expert and
context parallelism, and FSDP2 with tensor parallelism."""

import contextlib

import gpt
import pytest
import torch
from ranks import DEVICE, Place, Ranks
from torch import Tensor, distributed, nn
from torch.distributed import pipelining
from torch.distributed._functional_collectives import all_to_all_single_autograd
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.experimental import context_parallel
from torch.distributed.tensor.parallel import loss_parallel
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

pytestmark = pytest.mark.slow


def losses_alone(layers: int = 2, clip: bool = False) -> list[float]:
    model = gpt.make_model(DEVICE, layers)
    return gpt.train(model, gpt.make_optimizer(model), lambda tokens: tokens.to(DEVICE))


@pytest.fixture(scope="module")
def alone() -> list[float]:
    return losses_alone()


# ---- tensor and sequence parallelism, by the example's plan ----


def tensor_parallel(place: Place, whole_logits: bool) -> list[float]:
    mesh = init_device_mesh(place.device.type, (place.ranks,))
    model = gpt.make_model(place.device)
    gpt.example("train_distributed").divide_layers(model, mesh, whole_logits)
    assert model.layers[0].attention.query_key_value.weight.to_local().shape[0] == 3 * 32 // 2
    with contextlib.nullcontext() if whole_logits else loss_parallel():
        return train_divided(place, model, lambda tokens: tokens.to(place.device))


def train_divided(place: Place, model: nn.Module, part) -> list[float]:
    optimizer = gpt.make_optimizer(model)
    losses = []
    for tokens in gpt.batches():
        tokens = part(tokens)
        logits = model(tokens[:, :-1])
        loss = functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        whole = loss.detach()
        losses.append((whole.full_tensor() if isinstance(whole, DTensor) else whole).item())
    return losses


@pytest.mark.parametrize("logits", ["whole", "divided"])
def test_tensor_and_sequence_parallel(ranks: Ranks, alone: list[float], logits: str) -> None:
    for losses in ranks(tensor_parallel, logits == "whole"):
        gpt.assert_same_losses(losses, alone)


def sharded_and_divided(place: Place) -> list[float]:
    mesh = init_device_mesh(place.device.type, (2, 2), mesh_dim_names=("data", "tensor"))
    model = gpt.make_model(place.device)
    example = gpt.example("train_distributed")
    example.divide_layers(model, mesh["tensor"])
    example.shard_parameters(model, mesh["data"])
    row = mesh["data"].get_local_rank()
    with loss_parallel():
        return train_divided(place, model, lambda tokens: tokens.chunk(2)[row].to(place.device))


def test_fsdp2_with_tensor_parallel(ranks: Ranks, alone: list[float]) -> None:
    gpt.assert_same_losses(gpt.mean(ranks(sharded_and_divided, ranks=4)), alone)


# ---- DTensor ----


def dtensor_attention(place: Place) -> None:
    """Attention and its gradients over heads and batches that are divided."""
    mesh = init_device_mesh(place.device.type, (place.ranks,))
    query, key, value = torch.randn(3, 4, 2, 8, 16, device=place.device).unbind()
    for placement in (Shard(0), Shard(1), Replicate()):
        local = [x.clone().requires_grad_() for x in (query, key, value)]
        divided = [
            distribute_tensor(x, mesh, [placement]).requires_grad_() for x in (query, key, value)
        ]
        want = functional.scaled_dot_product_attention(*local, is_causal=True)
        got = functional.scaled_dot_product_attention(*divided, is_causal=True)
        assert got.placements == (placement,)
        want.square().sum().backward()
        got.square().sum().backward()
        torch.testing.assert_close(got.full_tensor(), want)
        for x, y in zip(divided, local):
            torch.testing.assert_close(x.grad.full_tensor(), y.grad)


@pytest.mark.skipif(DEVICE == "cpu", reason="DTensor has no rule for the CPU's attention")
def test_dtensor_attention(ranks: Ranks) -> None:
    ranks(dtensor_attention)


# ---- pipelines ----


class Stage(nn.Module):
    """Consecutive layers of a GPT; the first stage embeds, the last gives logits."""

    def __init__(self, model: nn.Module, index: int, count: int):
        super().__init__()
        size = len(model.layers) // count
        self.embeddings = (
            nn.ModuleList([model.token_embedding, model.position_embedding]) if index == 0 else None
        )
        self.layers = model.layers[index * size : (index + 1) * size]
        self.out = nn.Sequential(model.norm, model.head) if index == count - 1 else None

    def forward(self, x: Tensor) -> Tensor:
        if self.embeddings is not None:
            positions = torch.arange(x.shape[1], device=x.device)
            x = self.embeddings[0](x) + self.embeddings[1](positions)
        for layer in self.layers:
            x = layer(x)
        return x if self.out is None else self.out(x)


SCHEDULES = {
    "GPipe": 1,
    "1F1B": 1,
    "LoopedBFS": 2,
    "Interleaved1F1B": 2,
    "InterleavedZeroBubble": 2,
    "ZBVZeroBubble": 2,
}


def pipeline(place: Place, name: str) -> list[float]:
    mine = SCHEDULES[name]
    count = mine * place.ranks
    if name == "ZBVZeroBubble":  # down and up again: a V
        indices = [place.rank, count - 1 - place.rank]
    else:
        indices = [place.rank + turn * place.ranks for turn in range(mine)]
    model = gpt.make_model(place.device, layers=4)
    stages = [
        pipelining.PipelineStage(Stage(model, index, count), index, count, place.device)
        for index in indices
    ]
    schedule = pipelining.schedules.get_schedule_class(name)(
        stages if mine > 1 else stages[0], n_microbatches=4, loss_fn=gpt.loss_of
    )
    parameters = nn.ModuleList(stage.submod for stage in stages)
    optimizer = gpt.make_optimizer(parameters)
    first, last = 0 in indices, count - 1 in indices
    result = []
    for tokens in gpt.batches():
        tokens = tokens.to(place.device)
        losses: list[Tensor] = []
        schedule.step(
            *([tokens[:, :-1]] if first else []),
            **({"target": tokens[:, 1:], "losses": losses} if last else {}),
        )
        optimizer.step()
        optimizer.zero_grad()
        if last:
            result.append(torch.stack(losses).mean().item())
    return result


@pytest.fixture(scope="module")
def alone_four_layers() -> list[float]:
    return losses_alone(layers=4)


@pytest.mark.parametrize("name", SCHEDULES)
def test_pipeline(ranks: Ranks, alone_four_layers: list[float], name: str) -> None:
    losses = [losses for losses in ranks(pipeline, name) if losses]
    assert len(losses) == 1
    gpt.assert_same_losses(losses[0], alone_four_layers)


# ---- experts ----


class Experts(nn.Module):
    """A feed-forward network for each kind of token, chosen by a router; the experts are divided
    between the ranks of `group`, and tokens travel to theirs and back."""

    COUNT = 4

    def __init__(self, width: int, ranks: int = 1, rank: int = 0):
        super().__init__()
        self.router = nn.Linear(width, self.COUNT, bias=False)
        every = [
            nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
            for _ in range(self.COUNT)
        ]
        self.ranks, size = ranks, self.COUNT // ranks
        self.experts = nn.ModuleList(every[rank * size : (rank + 1) * size])

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(0, 1)
        weight, choice = self.router(tokens).softmax(-1).max(-1)
        order = choice.argsort(stable=True)
        counts = choice.bincount(minlength=self.COUNT)
        out = torch.empty_like(tokens).index_copy(0, order, self._run(tokens[order], counts))
        return (out * weight[:, None]).view_as(x)

    def _run(self, tokens: Tensor, counts: Tensor) -> Tensor:
        """Experts applied to tokens that are sorted by expert."""
        if self.ranks == 1:
            pieces = tokens.split(counts.tolist())
            return torch.cat([expert(piece) for expert, piece in zip(self.experts, pieces)])
        group = distributed.group.WORLD
        arriving = torch.empty_like(counts)
        distributed.all_to_all_single(arriving, counts)
        sent = counts.view(self.ranks, -1).sum(1).tolist()
        received = arriving.view(self.ranks, -1).sum(1).tolist()
        here = all_to_all_single_autograd(tokens, received, sent, group)
        # From each rank come the tokens of each of my experts.
        pieces = here.split(arriving.tolist())
        size = len(self.experts)
        done = [self.experts[number % size](piece) for number, piece in enumerate(pieces)]
        return all_to_all_single_autograd(torch.cat(done), sent, received, group)


def make_mixture(device: torch.device | str, ranks: int = 1, rank: int = 0) -> nn.Module:
    model = gpt.make_model("cpu")
    torch.manual_seed(3)
    for layer in model.layers:
        layer.feed_forward = Experts(32, ranks, rank)
    return model.to(device)


def expert_parallel(place: Place) -> list[float]:
    model = make_mixture(place.device, place.ranks, place.rank)
    experts = [name for name, _ in model.named_parameters() if ".experts." in name]
    # All else is replicated.
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, experts)
    replica = DistributedDataParallel(
        model, device_ids=None if place.device.type == "cpu" else [place.device]
    )
    optimizer = gpt.make_optimizer(model)
    losses = []
    for tokens in gpt.batches():
        loss = gpt.loss_on(replica, tokens.chunk(place.ranks)[place.rank].to(place.device))
        loss.backward()
        for name, parameter in model.named_parameters():
            if name in experts and parameter.grad is not None:
                parameter.grad /= place.ranks  # the sum over all tokens, of means over a part
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def test_expert_parallel(ranks: Ranks) -> None:
    model = make_mixture(DEVICE)
    want = gpt.train(model, gpt.make_optimizer(model), lambda tokens: tokens.to(DEVICE))
    gpt.assert_same_losses(gpt.mean(ranks(expert_parallel)), want)


# ---- context parallelism: the sequence is divided everywhere, keys and values go round ----


class WithPositions(nn.Module):
    """A GPT whose positions are given, since a rank holds pieces of the sequence."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, positions: Tensor) -> Tensor:
        x = self.model.token_embedding(tokens) + self.model.position_embedding(positions)
        for layer in self.model.layers:
            x = layer(x)
        return self.model.head(self.model.norm(x))


def context(place: Place, balanced: bool) -> list[float]:
    from torch.distributed.tensor.experimental import _attention

    _attention._cp_options.enable_load_balance = balanced
    mesh = init_device_mesh(place.device.type, (place.ranks,), mesh_dim_names=("context",))
    model = WithPositions(gpt.make_model(place.device))
    for parameter in model.parameters():
        distributed.broadcast(parameter.data, 0)
    fully_shard(model, mesh=mesh)  # the mean of gradients over the pieces
    optimizer = gpt.make_optimizer(model)
    losses = []
    for tokens in gpt.batches():
        tokens = tokens.to(place.device)
        inputs, targets = tokens[:, :-1].clone(), tokens[:, 1:].clone()
        positions = torch.arange(gpt.CONTEXT, device=place.device)
        with context_parallel(
            mesh, buffers=[inputs, targets, positions], buffer_seq_dims=[1, 1, 0]
        ):
            assert inputs.shape[1] == gpt.CONTEXT // place.ranks
            loss = gpt.loss_of(model(inputs, positions), targets)
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


@pytest.mark.skipif(DEVICE == "cpu", reason="context parallelism has no rule for the CPU")
@pytest.mark.parametrize("balanced", [True, False])
def test_context_parallel(ranks: Ranks, alone: list[float], balanced: bool) -> None:
    gpt.assert_same_losses(gpt.mean(ranks(context, balanced)), alone)
