"""Compares DDP on accel with accl against DDP on the CPU with Gloo: the GPT of 6 layers of 512, two
ranks of one thread, the same global batch; and what communication adds to the step.

    python benchmarks/data_parallel.py --amp        # bfloat16 autocast

The candidates take turns, a few steps each, and wait (stopped) while another runs. "alone" is the
same step under no_sync(), without any communication. Prints a table in Markdown.
"""

import argparse
import contextlib
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
import train
import turns
from torch import distributed
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

CANDIDATES = {"accel": "accl", "cpu": "gloo"}


def serve(device_type: str, rank: int, options: argparse.Namespace) -> None:
    """Answers each line on stdin, "together" or "alone" and a number of steps, with their times in
    milliseconds as JSON. Every step ends with reading the loss."""
    torch.set_num_threads(1)
    device = torch.device("cpu") if device_type == "cpu" else torch.device(device_type, rank)
    if device.type != "cpu":
        torch.accelerator.set_device_index(rank)
    distributed.init_process_group(
        CANDIDATES[device_type],
        store=distributed.FileStore(options.store, options.ranks),
        rank=rank,
        world_size=options.ranks,
    )
    model, tokens = train.make_workload("gpt_large")
    tokens = tokens.chunk(options.ranks)[rank].to(device)
    ids = None if device.type == "cpu" else [device]
    model = DistributedDataParallel(
        model.to(device), device_ids=ids, gradient_as_bucket_view=options.bucket_view
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step() -> float:
        with torch.autocast(device.type, torch.bfloat16, enabled=options.amp):
            logits = model(tokens[:, :-1])
            loss = functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        how, count = line.split()
        times = []
        with model.no_sync() if how == "alone" else contextlib.nullcontext():
            for _ in range(int(count)):
                start = time.perf_counter()
                loss = step()
                times.append(1e3 * (time.perf_counter() - start))
        print(json.dumps({"times": times, "loss": loss}), flush=True)
    distributed.destroy_process_group()


class Candidate:
    """The ranks of one candidate, and the times of their steps."""

    def __init__(self, name: str, options: argparse.Namespace, folder: str):
        self.name = name
        self.times: dict[str, list[float]] = {"together": [], "alone": []}
        self._ranks = [
            turns.Candidate(
                [
                    *(sys.executable, __file__, *sys.argv[1:], "--serve", name),
                    *("--rank", str(rank), "--store", str(Path(folder) / name)),
                ],
                OMP_NUM_THREADS="1",
                ACCEL_DEVICE_COUNT=str(options.ranks),
            )
            for rank in range(options.ranks)
        ]
        for rank in self._ranks:
            rank.answer()
        for rank in self._ranks:
            rank.pause()

    def run(self, how: str, steps: int, keep: bool = True) -> None:
        for rank in self._ranks:
            rank.resume()
        for rank in self._ranks:
            rank.send(f"{how} {steps}")
        answers = [rank.answer() for rank in self._ranks]
        for rank in self._ranks:
            rank.pause()
        if keep:
            # A step has ended when it has on every rank.
            self.times[how] += map(max, zip(*(answer["times"] for answer in answers)))

    def close(self) -> None:
        for rank in self._ranks:
            rank.resume()
        for rank in self._ranks:
            rank.close()


def compare(options: argparse.Namespace) -> list[Candidate]:
    candidates: list[Candidate] = []
    with tempfile.TemporaryDirectory() as folder:
        try:
            for name in options.candidates:
                candidates.append(Candidate(name, options, folder))
                for how in ("together", "alone", "together"):
                    candidates[-1].run(how, options.burst, keep=False)  # warm-up
            for number in range(options.rounds):
                for candidate in candidates[number % 2 :] + candidates[: number % 2]:
                    for how in ("together", "alone") if number % 2 else ("alone", "together"):
                        candidate.run(how, options.burst)
        finally:
            for candidate in candidates:
                candidate.close()
    return candidates


def table(candidates: list[Candidate], options: argparse.Namespace) -> str:
    lines = [
        f"DDP step of the 6×512 GPT, {'bfloat16 autocast' if options.amp else 'float32'}, "
        f"{options.ranks} ranks of one thread, global batch 4 × 256, {torch.__version__}",
        "",
        "| candidate | min, ms | median, ms | alone: min | median | communication adds: min "
        "| median | against the other: min | median |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for candidate in candidates:
        together, alone = candidate.times["together"], candidate.times["alone"]
        others = [c.times["together"] for c in candidates if c is not candidate]
        figures = []
        for statistic in (min, statistics.median):
            step, bare = statistic(together), statistic(alone)
            ratio = f"{min(map(statistic, others)) / step:.2f}×" if others else "-"
            figures.append(
                (f"{step:.1f}", f"{bare:.1f}", f"{100 * (step / bare - 1):.0f} %", ratio)
            )
        cells = [cell for pair in zip(*figures) for cell in pair]
        name = f"{candidate.name}, {CANDIDATES[candidate.name]}"
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--amp", action="store_true", help="autocast to bfloat16")
    parser.add_argument("--candidates", nargs="+", choices=CANDIDATES, default=list(CANDIDATES))
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--bucket-view", action="store_true", help="gradient_as_bucket_view")
    parser.add_argument("--rounds", type=int, default=6, help="turns of each (default: 6)")
    parser.add_argument("--burst", type=int, default=4, help="steps a turn (default: 4)")
    for hidden in ("--serve", "--store"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    parser.add_argument("--rank", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve, options.rank, options)
    else:
        print(table(compare(options), options))


if __name__ == "__main__":
    main()
