"""Trains the GPT of train_gpt.py on several ranks, one device each.

    torchrun --nproc-per-node=2 examples/train_distributed.py                         # DDP
    torchrun --nproc-per-node=2 examples/train_distributed.py --parallel fsdp         # FSDP2
    torchrun --nproc-per-node=4 examples/train_distributed.py --parallel fsdp --tensor 2  # and TP

The batch is divided between the ranks. `--tensor N` gives each layer to N ranks, which divide its
heads, its hidden units and the sequence between its layers. A checkpoint is written now and then;
a run that finds one goes on from it, with any number of ranks, so that `torchrun --max-restarts=3`
survives the death of a rank.

This is plain PyTorch: the process group is the one PyTorch finds for the device.
"""

import argparse
import contextlib
import os
import shutil
import sys
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, distributed, nn
from torch.distributed import checkpoint
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    PrepareModuleInput,
    RowwiseParallel,
    SequenceParallel,
    loss_parallel,
    parallelize_module,
)
from torch.nn.parallel import DistributedDataParallel

sys.path.insert(0, str(Path(__file__).parent))
from train_gpt import (
    GPT,
    History,
    Text,
    Trainer,
    model_options,
    option_parser,
    random_state,
    set_random_state,
)

# ---- how a GPT is divided ----


def divide_layers(model: GPT, mesh: DeviceMesh, whole_logits: bool = False) -> GPT:
    """Tensor and sequence parallelism over a one-dimensional mesh.

    Between the blocks each rank holds a piece of the sequence, within them some of the heads or
    hidden units. The logits stay divided by vocabulary, for loss_parallel(), unless `whole_logits`.
    """
    sequence = Shard(1)
    parallelize_module(
        model,
        mesh,
        {
            "token_embedding": RowwiseParallel(
                input_layouts=Replicate(), output_layouts=sequence, use_local_output=True
            ),
            "position_embedding": RowwiseParallel(
                input_layouts=Replicate(), output_layouts=Shard(0), use_local_output=True
            ),
            "norm": SequenceParallel(),
            "head": ColwiseParallel(
                input_layouts=sequence,
                output_layouts=Replicate() if whole_logits else Shard(-1),
                use_local_output=whole_logits,
            ),
        },
    )
    for layer in model.layers:
        gathered = PrepareModuleInput(input_layouts=sequence, desired_input_layouts=Replicate())
        parallelize_module(
            layer,
            mesh,
            {
                "attention_norm": SequenceParallel(use_local_output=True),
                "attention": gathered,
                "attention.query_key_value": ColwiseParallel(),
                "attention.projection": RowwiseParallel(output_layouts=sequence),
                "feed_forward_norm": SequenceParallel(use_local_output=True),
                "feed_forward": gathered,
                "feed_forward.0": ColwiseParallel(),
                "feed_forward.2": RowwiseParallel(output_layouts=sequence),
            },
        )
    return model


def shard_parameters(model: GPT, mesh: DeviceMesh) -> GPT:
    """FSDP2: a layer's parameters are gathered while it runs."""
    for layer in model.layers:
        fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


class LossOf(nn.Module):
    """The loss as a forward pass, which is what DDP wraps."""

    def __init__(self, model: GPT):
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        return self.model.loss(tokens)


# ---- training ----


class DistributedTrainer(Trainer):
    """A trainer on each rank: `options.batch` is the batch of all of them together."""

    def __init__(self, options: argparse.Namespace, device: torch.device, text: Text):
        self.rank = distributed.get_rank()
        tensor = options.tensor
        data = distributed.get_world_size() // tensor
        self.mesh = init_device_mesh(device.type, (data, tensor), mesh_dim_names=("data", "tensor"))
        self.mesh._flatten()  # sums over all ranks, as the gradients' norm is, are one collective
        super().__init__(options, device, text)
        # The parameters are the same everywhere; dropout is not.
        torch.manual_seed(options.seed + 1 + self.rank)

    def _placed(self, model: GPT) -> GPT:
        model = model.to(self.device)
        if self.options.parallel == "ddp":
            # The wrapper shares the parameters; `model` still is what a checkpoint saves.
            ids = None if self.device.type == "cpu" else [self.device]
            self.replica = DistributedDataParallel(LossOf(model), device_ids=ids)
            return model
        if self.mesh["tensor"].size() > 1:
            divide_layers(model, self.mesh["tensor"])
        return shard_parameters(model, self.mesh["data"])

    def _batch(self, data: Tensor, seed: int) -> Tensor:
        tokens = self.text.batch(data, self.options.batch, seed)
        group = self.mesh["data"]
        part = tokens.chunk(group.size())[group.get_local_rank()]
        return part.to(self.device, non_blocking=True)

    def _loss(self, tokens: Tensor) -> Tensor:
        if self.options.parallel == "ddp" and torch.is_grad_enabled():
            with self._autocast():
                return self.replica(tokens)
        loss = super()._loss(tokens)
        return loss.full_tensor() if isinstance(loss, DTensor) else loss

    def _divided_vocabulary(self) -> contextlib.AbstractContextManager:
        """In which cross-entropy takes logits of which each rank has some."""
        return loss_parallel() if self.options.tensor > 1 else contextlib.nullcontext()

    def train_step(self) -> Tensor:
        with self._divided_vocabulary():
            return self._mean(super().train_step())

    def validation_loss(self, batches: int = 20) -> float:
        with self._divided_vocabulary():
            mine = super().validation_loss(batches)
        return self._mean(torch.tensor(mine, device=self.device)).item()

    def _mean(self, loss: Tensor) -> Tensor:
        """Of the ranks' losses, each the mean of its part of the batch."""
        distributed.all_reduce(loss, group=self.mesh["data"].get_group())
        return loss / self.mesh["data"].size()

    # -- checkpoints: a folder a step, into which every rank writes its part --

    def checkpoint_path(self) -> Path:
        return self.options.out / f"step-{self.step:06d}"

    def _state(self) -> dict:
        model, optimizer = get_state_dict(self.model, self.optimizer)
        return {
            "model": model,
            "optimizer": optimizer,
            "schedule": self.schedule.state_dict(),
            "step": self.step,
            "history": asdict(self.history),
            "options": model_options(self.options),
            f"random-{self.rank}-of-{distributed.get_world_size()}": random_state(self.device),
        }

    def save(self) -> None:
        """Writes a checkpoint, and removes the ones before once it is complete."""
        checkpoint.save(self._state(), checkpoint_id=self.checkpoint_path())
        if self.rank == 0:
            for path in complete_checkpoints(self.options.out)[:-1]:
                shutil.rmtree(path)
        distributed.barrier()

    def resume(self) -> bool:
        """Goes on from the last complete checkpoint, if there is one. Each rank then has random
        numbers of its own again; after a change of the number of ranks, new ones."""
        paths = complete_checkpoints(self.options.out)
        if not paths:
            return False
        state = self._state()
        partial = checkpoint.DefaultLoadPlanner(allow_partial_load=True)
        checkpoint.load(state, checkpoint_id=paths[-1], planner=partial)
        if state["options"] != model_options(self.options):
            sys.exit(f"{paths[-1]} was trained with {state['options']}")
        set_state_dict(
            self.model,
            self.optimizer,
            model_state_dict=state["model"],
            optim_state_dict=state["optimizer"],
        )
        self.schedule.load_state_dict(state["schedule"])
        self.step = state["step"]
        self.history = History(**state["history"])
        set_random_state(
            self.device, state[f"random-{self.rank}-of-{distributed.get_world_size()}"]
        )
        return True


def complete_checkpoints(folder: Path) -> list[Path]:
    """The metadata are written last."""
    return sorted(path.parent for path in folder.glob("step-*/.metadata"))


def parse_options() -> argparse.Namespace:
    parser = option_parser(__doc__)
    parser.set_defaults(out=Path("build/train_distributed"))
    parser.add_argument("--parallel", choices=("ddp", "fsdp"), default="ddp")
    parser.add_argument("--tensor", type=int, default=1, help="ranks that share a layer")
    options = parser.parse_args()
    world_size = int(os.environ.get("WORLD_SIZE", "0"))
    if not world_size:
        parser.error("start it with torchrun")
    if options.tensor > 1 and options.parallel == "ddp":
        parser.error("--tensor goes with --parallel fsdp")
    if world_size % options.tensor:
        parser.error(f"--tensor {options.tensor} does not divide the {world_size} ranks")
    if options.batch % (world_size // options.tensor):
        parser.error(f"--batch {options.batch} cannot be divided between the ranks")
    if options.context % options.tensor or options.heads % options.tensor:
        parser.error("--tensor must divide --context and --heads")
    return options


def main() -> None:
    options = parse_options()
    device = torch.device(options.device)
    if device.type != "cpu":
        device = torch.device(device.type, int(os.environ["LOCAL_RANK"]))
        torch.accelerator.set_device_index(device.index)
    distributed.init_process_group()
    if distributed.get_rank() > 0:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - until the process ends
    text = Text(options.context)
    trainer = DistributedTrainer(options, device, text)
    resumed = trainer.resume()
    print(
        f"{distributed.get_world_size()} ranks, {options.parallel}, {options.tensor} to a layer; "
        f"{'goes on after' if resumed else 'starts at'} step {trainer.step}"
    )
    trainer.run()
    if trainer.history.validation:
        print(f"validation loss {trainer.history.validation[-1][1]:.6f}")
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
