"""Data parallelism trains as one process does: DDP, ZeRO, FSDP1, FSDP2, HSDP."""

import contextlib
import itertools
from collections.abc import Callable
from functools import partial

import gpt
import pytest
import torch
from ranks import DEVICE, Place, Ranks
from torch import Tensor, distributed, nn
from torch.distributed.algorithms.ddp_comm_hooks import (
    default_hooks,
    post_localSGD_hook,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    BackwardPrefetch,
    CPUOffload,
    CPUOffloadPolicy,
    FullyShardedDataParallel,
    MixedPrecision,
    MixedPrecisionPolicy,
    ShardingStrategy,
    fully_shard,
)
from torch.distributed.fsdp.wrap import ModuleWrapPolicy
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

# Rounding to bfloat16 (8 bits), of gradients or of everything.
BFLOAT16 = 2e-2


def part_of(place: Place, ranks: int | None = None, index: int | None = None):
    """This rank's rows of a batch, on its device."""
    return lambda tokens: tokens.chunk(ranks or place.ranks)[
        place.rank if index is None else index
    ].to(place.device)


@pytest.fixture(scope="module")
def alone() -> list[float]:
    """The losses of one process."""
    model = gpt.make_model(DEVICE)
    return gpt.train(model, gpt.make_optimizer(model), lambda tokens: tokens.to(DEVICE))


@pytest.fixture(scope="module")
def alone_clipped() -> list[float]:
    model = gpt.make_model(DEVICE)
    return gpt.train(
        model,
        gpt.make_optimizer(model),
        lambda tokens: tokens.to(DEVICE),
        clip=lambda: nn.utils.clip_grad_norm_(model.parameters(), CLIP),
    )


CLIP = 0.5


# ---- DDP ----


def wrap(place: Place, model: nn.Module, **options: object) -> DistributedDataParallel:
    ids = [place.device] if place.device.type != "cpu" else None
    # Small buckets, so that there are several.
    return DistributedDataParallel(model, device_ids=ids, **{"bucket_cap_mb": 0.02, **options})


DDP_OPTIONS = {
    "plain": {},
    "one_bucket": {"bucket_cap_mb": 25},
    "static_graph": {"static_graph": True},
    "find_unused": {"find_unused_parameters": True},
    "bucket_view": {"gradient_as_bucket_view": True},
    "bucket_view_static": {"gradient_as_bucket_view": True, "static_graph": True},
}


def ddp(place: Place, options: dict) -> list[float]:
    model = gpt.make_model(place.device)
    if place.rank > 0:  # DDP hands out the parameters of rank 0
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(1)
    model = wrap(place, model, **options)
    return gpt.train(model, gpt.make_optimizer(model), part_of(place))


@pytest.mark.parametrize("name", DDP_OPTIONS)
def test_ddp(ranks: Ranks, alone: list[float], name: str) -> None:
    gpt.assert_same_losses(gpt.mean(ranks(ddp, DDP_OPTIONS[name])), alone)


def ddp_accumulating(place: Place) -> list[float]:
    model = wrap(place, gpt.make_model(place.device))
    optimizer = gpt.make_optimizer(model)
    losses = []
    for tokens in gpt.batches():
        first, second = part_of(place)(tokens).chunk(2)
        with model.no_sync():
            a = gpt.loss_on(model, first) / 2
            a.backward()
        b = gpt.loss_on(model, second) / 2
        b.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append((a + b).item())
    return losses


@pytest.mark.slow
def test_ddp_no_sync(ranks: Ranks, alone: list[float]) -> None:
    gpt.assert_same_losses(gpt.mean(ranks(ddp_accumulating)), alone)


def ddp_with_hook(place: Place, name: str) -> list[float]:
    model = wrap(place, gpt.make_model(place.device))
    group = distributed.group.WORLD
    if name == "wrapped":
        hook = default_hooks.bf16_compress_wrapper(default_hooks.allreduce_hook)
    elif name == "python":

        def hook(state: object, bucket: distributed.GradBucket) -> torch.futures.Future[Tensor]:
            work = distributed.all_reduce(bucket.buffer(), group=group, async_op=True)
            return work.get_future().then(lambda future: future.value()[0] / place.ranks)

    else:
        hook = getattr(default_hooks, name)
    model.register_comm_hook(group, hook)
    return gpt.train(model, gpt.make_optimizer(model), part_of(place))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["allreduce_hook", "fp16_compress_hook", "bf16_compress_hook", "wrapped", "python"]
)
def test_ddp_hooks(ranks: Ranks, alone: list[float], name: str) -> None:
    if DEVICE == "cpu" and name in ("bf16_compress_hook", "wrapped"):
        pytest.skip("DDP refuses it on the CPU")
    exact = name in ("allreduce_hook", "python")
    gpt.assert_same_losses(gpt.mean(ranks(ddp_with_hook, name)), alone, 1e-5 if exact else BFLOAT16)


class Excess(nn.Module):
    """A model beside a layer that only some ranks use, and that changes nothing."""

    def __init__(self, model: nn.Module, used: bool):
        super().__init__()
        self.model, self.used = model, used
        self.excess = nn.Linear(gpt.VOCABULARY, gpt.VOCABULARY, bias=False)
        nn.init.zeros_(self.excess.weight)

    def forward(self, tokens: Tensor) -> Tensor:
        logits = self.model(tokens)
        return logits + 0 * self.excess(logits.detach()) if self.used else logits


def ddp_unused(place: Place, find: bool) -> list[float]:
    model = Excess(gpt.make_model("cpu"), used=place.rank == 0).to(place.device)
    model = wrap(place, model, find_unused_parameters=find)
    if find:
        return gpt.train(model, gpt.make_optimizer(model), part_of(place))
    with pytest.raises(RuntimeError, match="Expected to have finished reduction"):
        model.module.used = False
        gpt.train(model, gpt.make_optimizer(model), part_of(place), steps=2)
    return []


@pytest.mark.slow
def test_ddp_unused_parameters(ranks: Ranks, alone: list[float]) -> None:
    gpt.assert_same_losses(gpt.mean(ranks(ddp_unused, True)), alone)
    ranks(ddp_unused, False)


def ddp_checkpointed(place: Place) -> list[float]:
    model = gpt.make_model(place.device)
    for layer in model.layers:
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
    model = wrap(place, model, static_graph=True)
    return gpt.train(model, gpt.make_optimizer(model), part_of(place))


@pytest.mark.slow
def test_ddp_recomputes_activations(ranks: Ranks, alone: list[float]) -> None:
    gpt.assert_same_losses(gpt.mean(ranks(ddp_checkpointed)), alone)


def ddp_local_sgd(place: Place) -> tuple[list[float], bool]:
    """Post-local SGD that has not started yet is DDP; then gradients stay local and models differ
    until they are averaged."""
    from torch.distributed.algorithms.model_averaging.averagers import PeriodicModelAverager

    model = wrap(place, gpt.make_model(place.device))
    state = post_localSGD_hook.PostLocalSGDState(
        process_group=None, subgroup=None, start_localSGD_iter=gpt.STEPS
    )
    model.register_comm_hook(state, post_localSGD_hook.post_localSGD_hook)
    losses = gpt.train(model, gpt.make_optimizer(model), part_of(place))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)  # what has none is not averaged
    averager = PeriodicModelAverager(period=1, warmup_steps=0)
    averager.average_parameters(model.parameters())
    weights = [torch.empty_like(model.module.head.weight) for _ in range(place.ranks)]
    distributed.all_gather(weights, model.module.head.weight.detach())
    return losses, all(torch.equal(weight, weights[0]) for weight in weights)


@pytest.mark.slow
def test_ddp_local_sgd(ranks: Ranks, alone: list[float]) -> None:
    results = ranks(ddp_local_sgd)
    gpt.assert_same_losses(gpt.mean([losses for losses, _ in results]), alone)
    assert all(same for _, same in results)


def ddp_with_sparse_gradients(place: Place) -> None:
    torch.manual_seed(0)
    embedding = nn.Embedding(50, 4, sparse=True)
    model = DistributedDataParallel(embedding.to(place.device))
    rows = [torch.randint(50, (9 + 30 * rank,)) for rank in range(place.ranks)]
    for _ in range(2):
        model.zero_grad()
        model(rows[place.rank].to(place.device)).sum().backward()
        gradient = model.module.weight.grad
        assert gradient.is_sparse
        counts = sum(torch.bincount(row, minlength=50) for row in rows)
        expected = (counts / place.ranks).unsqueeze(1).expand(50, 4)
        torch.testing.assert_close(gradient.cpu().to_dense(), expected)


def test_ddp_with_sparse_gradients(ranks: Ranks) -> None:
    ranks(ddp_with_sparse_gradients, ranks=3)


def ddp_is_timed(place: Place) -> None:
    model = wrap(place, nn.Linear(100, 100).to(place.device))
    for _ in range(3):
        model(torch.randn(10, 100, device=place.device)).sum().backward()
    model(torch.randn(10, 100, device=place.device))  # reads the times of the last iteration
    data = model._get_ddp_logging_data()
    assert data["backend_name"] == distributed.get_backend()
    communication, computation = data["backward_comm_time"], data["backward_compute_time"]
    overlap = data["backward_compute_comm_overlap_time"]
    assert data["forward_compute_time"] > 0
    assert 0 < overlap <= min(communication, computation)


def test_ddp_is_timed(ranks: Ranks) -> None:
    ranks(ddp_is_timed)


class Normalised(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def batch_norm_losses(model: nn.Module, part) -> tuple[list[float], Tensor]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    data = torch.randn(10, 8, 8, generator=torch.Generator().manual_seed(2))
    losses = []
    for x in data:
        loss = (model(part(x)) - part(x).sum(1, keepdim=True)).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses, {name: value.cpu() for name, value in model.state_dict().items()}


def ddp_batch_norm(place: Place) -> tuple[list[float], dict]:
    torch.manual_seed(0)
    model = nn.SyncBatchNorm.convert_sync_batchnorm(Normalised()).to(place.device)
    losses, state = batch_norm_losses(wrap(place, model), part_of(place))
    return losses, {name.removeprefix("module."): value for name, value in state.items()}


@pytest.mark.slow
@pytest.mark.skipif(DEVICE == "cpu", reason="SyncBatchNorm is for accelerators")
def test_ddp_synchronises_batch_norm(ranks: Ranks) -> None:
    torch.manual_seed(0)
    want, state = batch_norm_losses(Normalised().to(DEVICE), lambda x: x.to(DEVICE))
    results = ranks(ddp_batch_norm)
    torch.testing.assert_close(
        torch.tensor(gpt.mean([losses for losses, _ in results])), torch.tensor(want)
    )
    torch.testing.assert_close(results[0][1], state, rtol=1e-4, atol=1e-5)


# ---- ZeRO ----


def zero(place: Place, overlap: bool) -> tuple[list[float], int]:
    model = wrap(place, gpt.make_model(place.device), static_graph=overlap)
    optimizer = ZeroRedundancyOptimizer(
        model.parameters(),
        torch.optim.AdamW,
        lr=gpt.LEARNING_RATE,
        parameters_as_bucket_view=overlap,
    )
    losses = gpt.train(model, optimizer, part_of(place))
    optimizer.consolidate_state_dict(to=0)
    state = optimizer.state_dict() if place.rank == 0 else None
    held = sum(1 for entry in optimizer.optim.state.values() if entry)
    return losses, held, state and len(state["state"])


@pytest.mark.slow
@pytest.mark.parametrize("bucket_view", [False, True])
def test_zero_redundancy_optimizer(ranks: Ranks, alone: list[float], bucket_view: bool) -> None:
    results = ranks(zero, bucket_view)
    gpt.assert_same_losses(gpt.mean([losses for losses, _, _ in results]), alone)
    count = len(list(gpt.make_model("cpu").parameters()))
    assert all(0 < held < count for _, held, _ in results)
    assert results[0][2] == count


# ---- FSDP1 ----

FSDP1_OPTIONS = {
    "full": {"sharding_strategy": ShardingStrategy.FULL_SHARD},
    "original_parameters": {"use_orig_params": True},
    "grad_op": {"sharding_strategy": ShardingStrategy.SHARD_GRAD_OP},
    "no_shard": {"sharding_strategy": ShardingStrategy.NO_SHARD},
    "prefetch": {
        "backward_prefetch": BackwardPrefetch.BACKWARD_PRE,
        "forward_prefetch": True,
        "limit_all_gathers": False,
    },
    "prefetch_post": {"backward_prefetch": BackwardPrefetch.BACKWARD_POST},
    "cpu_offload": {"cpu_offload": CPUOffload(offload_params=True)},
}


def wrap_fsdp1(place: Place, **options: object) -> FullyShardedDataParallel:
    model = gpt.make_model(place.device)
    return FullyShardedDataParallel(
        model,
        auto_wrap_policy=ModuleWrapPolicy({gpt.example("train_gpt").Layer}),
        device_id=place.device,
        **options,
    )


def fsdp1(place: Place, options: dict) -> list[float]:
    model = wrap_fsdp1(place, **options)
    return gpt.train(
        model, gpt.make_optimizer(model), part_of(place), clip=lambda: model.clip_grad_norm_(CLIP)
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", FSDP1_OPTIONS)
def test_fsdp1(ranks: Ranks, alone_clipped: list[float], name: str) -> None:
    if DEVICE == "cpu" and name == "cpu_offload":
        pytest.skip("FSDP1 synchronises a stream, which the CPU lacks")
    gpt.assert_same_losses(gpt.mean(ranks(fsdp1, FSDP1_OPTIONS[name])), alone_clipped)


def train_accumulating(place: Place, model: nn.Module, each: Callable) -> list[float]:
    """Losses of steps whose gradients are those of two halves; each(number) is entered around the
    backward of a half."""
    optimizer = gpt.make_optimizer(model)
    losses = []
    for tokens in gpt.batches():
        loss = 0.0
        for number, piece in enumerate(part_of(place)(tokens).chunk(2)):
            with each(number):
                half = gpt.loss_on(model, piece) / 2
                half.backward()
            loss += half.item()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss)
    return losses


def fsdp1_accumulating(place: Place) -> list[float]:
    model = wrap_fsdp1(place)

    def each(number: int):
        return model.no_sync() if number == 0 else contextlib.nullcontext()

    return train_accumulating(place, model, each)


@pytest.mark.slow
def test_fsdp1_no_sync(ranks: Ranks, alone: list[float]) -> None:
    gpt.assert_same_losses(gpt.mean(ranks(fsdp1_accumulating)), alone)


def fsdp1_mixed(place: Place) -> list[float]:
    policy = MixedPrecision(torch.bfloat16, torch.float32, torch.bfloat16)
    return fsdp1(place, {"mixed_precision": policy, "use_orig_params": True})


@pytest.mark.slow
def test_fsdp1_mixed_precision(ranks: Ranks, alone_clipped: list[float]) -> None:
    gpt.assert_same_losses(gpt.mean(ranks(fsdp1_mixed)), alone_clipped, BFLOAT16)


# ---- FSDP2 ----

FSDP2_OPTIONS = {
    "plain": {},
    "keeps_parameters": {"reshard_after_forward": False},
    "cpu_offload": {"offload_policy": CPUOffloadPolicy(pin_memory=DEVICE != "cpu")},
}


def shard(place: Place, model: nn.Module, **options: object) -> nn.Module:
    # Without a mesh FSDP2 takes the accelerator, also when the tests run on the CPU.
    options.setdefault("mesh", init_device_mesh(place.device.type, (place.ranks,)))
    for layer in model.layers:
        fully_shard(layer, **options)
    return fully_shard(model, **options)


def fsdp2(place: Place, options: dict, prefetch: int = 0) -> list[float]:
    model = shard(place, gpt.make_model(place.device), **options)
    layers = list(model.layers)
    if prefetch:
        for here, there in itertools.pairwise(layers):
            here.set_modules_to_forward_prefetch([there])
            there.set_modules_to_backward_prefetch([here])
    assert all(isinstance(parameter, DTensor) for parameter in model.parameters())

    def clip() -> None:
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)

    return gpt.train(model, gpt.make_optimizer(model), part_of(place), clip=clip)


@pytest.mark.parametrize("name", FSDP2_OPTIONS)
def test_fsdp2(ranks: Ranks, alone_clipped: list[float], name: str) -> None:
    gpt.assert_same_losses(gpt.mean(ranks(fsdp2, FSDP2_OPTIONS[name])), alone_clipped)


@pytest.mark.slow
def test_fsdp2_prefetches(ranks: Ranks, alone_clipped: list[float]) -> None:
    gpt.assert_same_losses(gpt.mean(ranks(fsdp2, {}, 1)), alone_clipped)


def fsdp2_accumulating(place: Place) -> list[float]:
    model = shard(place, gpt.make_model(place.device))

    def each(number: int):
        model.set_requires_gradient_sync(number == 1)
        model.set_is_last_backward(number == 1)
        return contextlib.nullcontext()

    return train_accumulating(place, model, each)


@pytest.mark.slow
def test_fsdp2_accumulates_gradients(ranks: Ranks, alone: list[float]) -> None:
    gpt.assert_same_losses(gpt.mean(ranks(fsdp2_accumulating)), alone)


def mixed_precision(place: Place) -> list[float]:
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    return fsdp2(place, {"mp_policy": policy})


@pytest.mark.slow
def test_fsdp2_mixed_precision(ranks: Ranks, alone_clipped: list[float]) -> None:
    gpt.assert_same_losses(gpt.mean(ranks(mixed_precision)), alone_clipped, BFLOAT16)


def fsdp2_from_meta(place: Place) -> list[float]:
    """Parameters are made where they live, after sharding."""
    with torch.device("meta"):
        model = gpt.make_model("meta")
    shard(place, model)
    model.to_empty(device=place.device)
    full = gpt.make_model(place.device).state_dict()
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

    set_model_state_dict(
        model, full, options=StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
    )
    return gpt.train(model, gpt.make_optimizer(model), part_of(place))


@pytest.mark.slow
def test_fsdp2_starts_on_meta(ranks: Ranks, alone: list[float]) -> None:
    gpt.assert_same_losses(gpt.mean(ranks(fsdp2_from_meta)), alone)


# ---- two-dimensional meshes: sharded within a group, replicated between groups ----


def hsdp2(place: Place) -> list[float]:
    mesh = init_device_mesh(place.device.type, (2, 2), mesh_dim_names=("replicate", "shard"))
    return fsdp2(place, {"mesh": mesh})


def hsdp1(place: Place) -> list[float]:
    mesh = init_device_mesh(place.device.type, (2, 2), mesh_dim_names=("replicate", "shard"))
    options = {"device_mesh": mesh, "sharding_strategy": ShardingStrategy.HYBRID_SHARD}
    return fsdp1(place, options)


@pytest.mark.slow
@pytest.mark.parametrize("function", [hsdp1, hsdp2])
def test_hsdp(ranks: Ranks, alone_clipped: list[float], function) -> None:
    gpt.assert_same_losses(gpt.mean(ranks(function, ranks=4)), alone_clipped)
