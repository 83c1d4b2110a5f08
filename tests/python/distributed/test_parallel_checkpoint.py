"""torch.distributed.checkpoint: what two ranks save, one loads, and the other way round."""

from pathlib import Path

import gpt
import pytest
import torch
from ranks import Place, Ranks
from torch import distributed
from torch.distributed import checkpoint
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

pytestmark = pytest.mark.slow

BEFORE = 6


def start(place: Place):
    """A model and its optimizer, sharded over all ranks."""
    model = gpt.make_model(place.device)
    mesh = init_device_mesh(place.device.type, (place.ranks,))
    for layer in model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model, torch.optim.AdamW(model.parameters(), lr=gpt.LEARNING_RATE)


def advance(place: Place, model, optimizer, batches) -> list[float]:
    losses = []
    for tokens in batches:
        loss = gpt.loss_on(model, tokens.chunk(place.ranks)[place.rank].to(place.device))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def whole_state(model) -> dict:
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    state = get_model_state_dict(model, options=options)
    return {name: value.clone() for name, value in state.items()}


def train_and_save(place: Place, folder: Path, asynchronous: bool) -> tuple[dict, list[float]]:
    """Saves after some steps and trains on: what the checkpoint holds, and the losses after it."""
    model, optimizer = start(place)
    advance(place, model, optimizer, gpt.batches()[:BEFORE])
    model_state, optimizer_state = get_state_dict(model, optimizer)
    state = {"model": model_state, "optimizer": optimizer_state, "step": BEFORE}
    saved = whole_state(model)
    if asynchronous:
        # On the CPU training has the default group's Gloo to itself; on accel it uses accl.
        group = distributed.new_group() if place.device.type == "cpu" else None
        pending = checkpoint.async_save(state, checkpoint_id=folder, process_group=group)
    else:
        checkpoint.save(state, checkpoint_id=folder)
    # What comes now must not reach the files.
    losses = advance(place, model, optimizer, gpt.batches()[BEFORE:])
    if asynchronous:
        pending.result(timeout=60)
    return saved, losses


def load_and_train(place: Place, folder: Path) -> tuple[dict, list[float]]:
    model, optimizer = start(place)
    for parameter in model.parameters():
        parameter.data.fill_(0.5)
    model_state, optimizer_state = get_state_dict(model, optimizer)
    state = {"model": model_state, "optimizer": optimizer_state, "step": 0}
    checkpoint.load(state, checkpoint_id=folder)
    assert state["step"] == BEFORE
    set_state_dict(
        model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"]
    )
    return whole_state(model), advance(place, model, optimizer, gpt.batches()[BEFORE:])


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize(("savers", "loaders"), [(2, 2), (2, 1), (1, 2)])
def test_checkpoint(
    ranks: Ranks, tmp_path: Path, savers: int, loaders: int, asynchronous: bool
) -> None:
    wrote = ranks(train_and_save, tmp_path / "checkpoint", asynchronous, ranks=savers)
    read = ranks(load_and_train, tmp_path / "checkpoint", ranks=loaders)
    saved, loaded = wrote[0][0], read[0][0]
    assert saved.keys() == loaded.keys()
    for name, value in saved.items():
        assert torch.equal(loaded[name], value), name
    want, got = (gpt.mean([losses for _, losses in results]) for results in (wrote, read))
    if savers == loaders:
        assert got == want
    torch.testing.assert_close(torch.tensor(got), torch.tensor(want), rtol=1e-5, atol=1e-5)
