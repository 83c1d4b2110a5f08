"""Compares steps on accel, as recorded, compiled and replayed, with CPU eager (fused AdamW) and
inductor, interleaved.

    python benchmarks/train.py                          # every workload, float32
    python benchmarks/train.py gpt --amp                # one workload, bfloat16 autocast
    python benchmarks/train.py gpt --candidates cpu accel

Machines are noisy, so the candidates take turns, a few steps each, in processes of their own that
wait (stopped, not spinning) while another runs; compare ratios, never times of different runs.
Prints a table in Markdown: minimum and median of a step, the first step with whatever is compiled
in it (inductor's cache is empty), each process' peak of resident memory, and of a step's device
memory the peaks of what the program holds (allocated) and what queued work holds beside (active).
"""

import argparse
import importlib.util
import json
import os
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import models
import torch
import turns

CANDIDATES = ("accel", "compiled", "replayed", "cpu", "inductor")
WORKLOADS = (
    "gpt",
    "gpt_large",
    "llama",
    "mlp",
    "resnet",
    "unet",
    "lstm",
    "tiny",
    "generation",
)


# ---- the workloads ----


def _train_gpt():
    path = Path(__file__).resolve().parents[1] / "examples" / "train_gpt.py"
    spec = importlib.util.spec_from_file_location("train_gpt", path)
    module = sys.modules["train_gpt"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make_workload(name: str):
    """A module with loss(batch), and one batch, on the CPU."""
    torch.manual_seed(0)
    classes = lambda count: torch.randint(10, (count,))  # noqa: E731
    if name == "mlp":
        return models.MLP(), (torch.randn(1024, 512), classes(1024))
    if name == "resnet":
        return models.ResNet(), (torch.randn(16, 3, 64, 64), classes(16))
    if name == "unet":
        return models.UNet(), (torch.randn(8, 3, 32, 32), torch.randn(8, 3, 32, 32))
    if name == "llama":
        return models.Llama(), torch.randint(256, (8, 129))
    if name == "lstm":
        return models.LSTM(), torch.randint(96, (8, 33))
    train_gpt = _train_gpt()
    batch, config = {
        "gpt": (8, train_gpt.GPTConfig(layers=4, width=256, heads=8, context=128)),
        "gpt_large": (
            4,
            train_gpt.GPTConfig(layers=6, width=512, heads=8, context=256, vocabulary=8192),
        ),
        # A step that is all overhead.
        "tiny": (1, train_gpt.GPTConfig(layers=4, width=32, heads=4, context=32)),
    }[name]
    tokens = torch.randint(config.vocabulary, (batch, config.context + 1))
    return train_gpt.GPT(config), tokens


def _device_of(candidate: str) -> str:
    return "cpu" if candidate in ("cpu", "inductor") else "accel"


def _as(candidate: str, function: Callable) -> Callable:
    """The function as the candidate runs it."""
    backends = {"compiled": "accel", "inductor": "inductor"}
    return (
        torch.compile(function, backend=backends[candidate]) if candidate in backends else function
    )


def make_step(workload: str, candidate: str, amp: bool) -> Callable[[], torch.Tensor]:
    """A function that trains by one step and returns the loss, which may be on its way yet; or, for
    "generation", decodes one token and returns it."""
    if workload == "generation":
        return _make_decoding(candidate, amp)
    device = _device_of(candidate)
    model, batch = make_workload(workload)
    model = model.to(device)
    move = lambda x: x.to(device)  # noqa: E731
    batch = tuple(map(move, batch)) if isinstance(batch, tuple) else move(batch)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def compute(batch):
        with torch.autocast(device, torch.bfloat16, enabled=amp):
            return model.loss(batch)

    compute = _as(candidate, compute)

    def step() -> torch.Tensor:
        loss = compute(batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return _replayed(step) if candidate == "replayed" else step


def _make_decoding(candidate: str, amp: bool) -> Callable[[], torch.Tensor]:
    device = _device_of(candidate)
    torch.manual_seed(0)
    dtype = torch.bfloat16 if amp else torch.float32
    model = models.Generation(dtype=dtype).to(device).eval()
    context = model.cosines.shape[0]
    token = torch.zeros(1, 1, dtype=torch.int64, device=device)
    position = torch.zeros(1, dtype=torch.int64, device=device)

    def compute(token, position):
        with torch.autocast(device, torch.bfloat16, enabled=amp):
            return model.next(token, position)

    compute = _as(candidate, compute)

    @torch.no_grad()
    def step() -> torch.Tensor:
        token.copy_(compute(token, position))
        position.add_(1).remainder_(context)
        return token.sum()

    return _replayed(step) if candidate == "replayed" else step


def _replayed(step: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
    """The step captured as one graph."""
    captured = torch.accel.Graph()
    for _ in range(2):
        step()
    with torch.accel.graph(captured):
        result = step()

    def replay() -> torch.Tensor:
        captured.replay()
        return result

    return replay


# ---- one candidate: a process that runs bursts of steps when asked ----


def serve(workload: str, candidate: str, amp: bool) -> None:
    """Answers each line on stdin, a number of steps, with their times in milliseconds as JSON.

    Every step ends with reading the loss, as a loop that prints it does, unless the number is
    negative: then only the last one reads, and the answer is the mean.
    """
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count())))
    start = time.perf_counter()
    step = make_step(workload, candidate, amp)
    step().item()
    print(json.dumps({"first": time.perf_counter() - start}), flush=True)
    on_accel = _device_of(candidate) == "accel"
    for line in sys.stdin:
        count = int(line)
        times = []
        if on_accel:
            torch.accel.reset_peak_memory_stats()
        if count > 0:
            for _ in range(count):
                start = time.perf_counter()
                loss = step().item()
                times.append(1e3 * (time.perf_counter() - start))
        else:
            start = time.perf_counter()
            for _ in range(-count):
                loss = step()
            loss = loss.item()
            times = [1e3 * (time.perf_counter() - start) / -count]
        answer = {"times": times, "peak": peak_memory(), "loss": loss}
        if on_accel:
            stats = torch.accel.memory_stats()
            answer["device"] = [
                stats[f"{kind}_bytes.all.peak"] / 2**20 for kind in ("allocated", "active")
            ]
        print(json.dumps(answer), flush=True)


def peak_memory() -> float:
    """Peak resident memory of this process in MiB, since it was executed."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024


class Candidate:
    """What one candidate answered, turn by turn."""

    def __init__(self, workload: str, name: str, amp: bool):
        self.name = name
        self._cache = tempfile.TemporaryDirectory()
        command = [sys.executable, __file__, workload, "--serve", name]
        self._process = turns.Candidate(
            command + (["--amp"] if amp else []), TORCHINDUCTOR_CACHE_DIR=self._cache.name
        )
        self.first = self._process.answer()["first"]
        self.times: list[float] = []
        self.peak = 0.0
        self.device: list[float] = []  # peaks of the last turn: allocated, active
        self.loss = 0.0
        self._process.pause()

    def run(self, steps: int, keep: bool = True) -> None:
        answer = self._process.ask(str(steps))
        self.peak, self.loss = answer["peak"], answer["loss"]
        self.device = answer.get("device", [])
        if keep:
            self.times += answer["times"]

    def close(self) -> None:
        self._process.close()
        self._cache.cleanup()


# ---- the comparison ----


def compare(options: argparse.Namespace, workload: str) -> list[Candidate]:
    """Lets the candidates take turns; the order changes, so that none is always first."""
    candidates: list[Candidate] = []
    burst = options.burst * (5 if workload in ("lstm", "tiny", "generation") else 1)
    try:
        for name in options.candidates:
            candidates.append(Candidate(workload, name, options.amp))
            candidates[-1].run(burst, keep=False)  # warm-up
        for number in range(options.rounds):
            for candidate in candidates[number % 2 :] + candidates[: number % 2]:
                candidate.run(-burst if options.no_read else burst)
    finally:
        for candidate in candidates:
            candidate.close()
    return candidates


def table(results: dict[str, list[Candidate]], amp: bool) -> str:
    lines = [
        f"Training step, {'bfloat16 autocast' if amp else 'float32'}, {torch.__version__}, "
        f"{os.environ.get('OMP_NUM_THREADS', os.cpu_count())} threads",
        "",
        "| workload | candidate | min, ms | median, ms | against the best rival "
        "| first step, s | peak memory, MiB | allocated, active, MiB | loss |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for workload, candidates in results.items():
        medians = {c.name: statistics.median(c.times) for c in candidates}
        for candidate in candidates:
            median = medians[candidate.name]
            rivals = [m for name, m in medians.items() if name != candidate.name]
            ratio = f"{min(rivals) / median:.2f}×" if rivals else "-"
            lines.append(
                f"| {workload} | {candidate.name} | {min(candidate.times):.2f} | {median:.2f} "
                f"| {ratio} | {candidate.first:.1f} | {candidate.peak:.0f} "
                f"| {', '.join(f'{peak:.1f}' for peak in candidate.device) or '-'} "
                f"| {candidate.loss:.3f} |"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("workloads", nargs="*", help=f"of {', '.join(WORKLOADS)} (default: all)")
    parser.add_argument("--amp", action="store_true", help="autocast to bfloat16")
    parser.add_argument("--candidates", nargs="+", choices=CANDIDATES, default=CANDIDATES)
    parser.add_argument("--rounds", type=int, default=10, help="turns of each (default: 10)")
    parser.add_argument("--burst", type=int, default=4, help="steps a turn (default: 4)")
    parser.add_argument("--no-read", action="store_true", help="read the loss once a turn only")
    parser.add_argument("--serve", choices=CANDIDATES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    for name in options.workloads:
        if name not in WORKLOADS:
            parser.error(f"no workload {name}: there are {', '.join(WORKLOADS)}")
    if options.serve:
        serve(options.workloads[0], options.serve, options.amp)
        return
    results = {name: compare(options, name) for name in options.workloads or WORKLOADS}
    print(table(results, options.amp))


if __name__ == "__main__":
    main()
