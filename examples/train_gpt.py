"""Trains a byte-level GPT on the source code of Python's own standard library.

    python examples/train_gpt.py                  # on accel, about a minute
    python examples/train_gpt.py --amp            # the same in bfloat16
    python examples/train_gpt.py --compare        # the same steps on the CPU, side by side
    python examples/train_gpt.py --resume         # goes on after Ctrl-C

This is plain PyTorch: the device's name is all that is special, and nothing is imported for it.
"""

import argparse
import math
import os
import signal
import sys
import sysconfig
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

VOCABULARY = 256  # bytes


# ---- the model ----


@dataclass
class GPTConfig:
    layers: int = 4
    width: int = 256
    heads: int = 8
    context: int = 128
    vocabulary: int = VOCABULARY
    dropout: float = 0.1


class Attention(nn.Module):
    """Causal self-attention over (batch, time, width).

    A head's query, key and value are neighbours in the output of `query_key_value`, so that a rank
    which holds a part of its rows (tensor parallelism) computes some of the heads.
    """

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.head_width = config.width // config.heads
        self.dropout = config.dropout
        self.query_key_value = nn.Linear(config.width, 3 * config.width)
        self.projection = nn.Linear(config.width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        heads = self.query_key_value(x).unflatten(2, (-1, 3 * self.head_width))
        query, key, value = heads.transpose(1, 2).chunk(3, dim=3)
        out = functional.scaled_dot_product_attention(
            query, key, value, is_causal=True, dropout_p=self.dropout if self.training else 0.0
        )
        return self.projection(out.transpose(1, 2).flatten(2))


class Layer(nn.Module):
    """Attention and a feed-forward network, each normalised before and added to its input."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.width)
        self.attention = Attention(config)
        self.feed_forward_norm = nn.LayerNorm(config.width)
        self.feed_forward = nn.Sequential(
            nn.Linear(config.width, 4 * config.width),
            nn.GELU(approximate="tanh"),
            nn.Linear(4 * config.width, config.width),
        )
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.dropout(self.attention(self.attention_norm(x)))
        return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))


class GPT(nn.Module):
    """Logits (batch, time, vocabulary) of the token that follows each of (batch, time) tokens."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocabulary, config.width)
        self.position_embedding = nn.Embedding(config.context, config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, config.vocabulary, bias=False)
        self.apply(self._initialise)
        # What every layer adds to the residual stream is scaled so that their sum keeps its size.
        for name, parameter in self.named_parameters():
            if name.endswith(("projection.weight", "feed_forward.2.weight")):
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * config.layers))

    @staticmethod
    def _initialise(module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.dropout(self.token_embedding(tokens) + self.position_embedding(positions))
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x))

    def loss(self, tokens: Tensor) -> Tensor:
        """Mean cross-entropy in nats of predicting tokens[:, 1:] from tokens[:, :-1]."""
        logits = self(tokens[:, :-1])
        return functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())

    @torch.no_grad()
    def generate(self, prompt: Tensor, count: int, temperature: float = 0.8) -> Tensor:
        """Samples `count` tokens after `prompt` (1, context); the window slides, its size stays."""
        window, tokens = prompt, []
        for _ in range(count):
            probabilities = (self(window)[:, -1].float() / temperature).softmax(dim=-1)
            tokens.append(torch.multinomial(probabilities, 1))
            window = torch.cat([window[:, 1:], tokens[-1]], dim=1)
        return torch.cat(tokens, dim=1)


# ---- the data ----


class Text:
    """Python's standard library as bytes on the CPU, one file in twenty kept for validation."""

    def __init__(self, context: int):
        files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
        parts: tuple[list[bytes], list[bytes]] = ([], [])
        for number, path in enumerate(files):
            parts[number % 20 == 19].append(path.read_bytes())
        self.train, self.validation = (
            torch.frombuffer(bytearray(b"".join(part)), dtype=torch.uint8) for part in parts
        )
        self.context = context

    def batch(self, data: Tensor, size: int, seed: int) -> Tensor:
        """Random pieces of `data`, (size, context + 1) of int64. The same seed gives the same."""
        windows = data.unfold(0, self.context + 1, 1)
        generator = torch.Generator().manual_seed(seed)
        starts = torch.randint(len(windows), (size,), generator=generator)
        return windows[starts].long()

    def unigram_entropy(self) -> float:
        """The loss in nats of a model that only knows how often each byte occurs."""
        counts = self.train.bincount(minlength=VOCABULARY) + 1
        logarithms = (counts / counts.sum()).log()
        return -logarithms[self.validation.long()].mean().item()


# ---- training ----


@dataclass
class History:
    """What the loss curve shows: (step, loss) in nats."""

    train: list[tuple[int, float]] = field(default_factory=list)
    validation: list[tuple[int, float]] = field(default_factory=list)


class Trainer:
    """A model, its optimizer and its place in the run, on one device."""

    def __init__(self, options: argparse.Namespace, device: str, text: Text):
        self.options = options
        self.device = torch.device(device)
        self.text = text
        torch.manual_seed(options.seed)
        config = GPTConfig(
            layers=options.layers,
            width=options.width,
            heads=options.heads,
            context=options.context,
            dropout=options.dropout,
        )
        self.model = self._placed(GPT(config))
        self.optimizer = torch.optim.AdamW(
            self._parameter_groups(), lr=options.learning_rate, betas=(0.9, 0.95), fused=True
        )
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, self._learning_rate)
        self.step = 0
        self.history = History()
        self.clock = StepClock()

    def _placed(self, model: GPT) -> GPT:
        """The model where it is trained."""
        return model.to(self.device)

    def _parameter_groups(self) -> list[dict]:
        """Weight decay is for matrices; biases and the gains of norms go without."""
        parameters = list(self.model.parameters())
        return [
            {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": 0.1},
            {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
        ]

    def _learning_rate(self, step: int) -> float:
        """Linear warm-up, then half a cosine down to a tenth."""
        warm_up = min(100, self.options.steps // 10)
        if step < warm_up:
            return (step + 1) / warm_up
        progress = (step - warm_up) / max(1, self.options.steps - warm_up)
        return 0.1 + 0.45 * (1 + math.cos(math.pi * min(1.0, progress)))

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.options.amp)

    def _batch(self, data: Tensor, seed: int) -> Tensor:
        tokens = self.text.batch(data, self.options.batch, seed)
        return tokens.to(self.device, non_blocking=True)

    def _loss(self, tokens: Tensor) -> Tensor:
        with self._autocast():
            return self.model.loss(tokens)

    def train_step(self) -> Tensor:
        """One step; the loss stays on the device, so that nothing waits for it."""
        loss = self._loss(self._batch(self.text.train, seed=self.step))
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.schedule.step()
        self.step += 1
        return loss.detach()

    @torch.no_grad()
    def validation_loss(self, batches: int = 20) -> float:
        self.model.eval()
        total = torch.zeros((), device=self.device)
        for number in range(batches):
            total += self._loss(self._batch(self.text.validation, seed=number))
        self.model.train()
        return total.item() / batches

    def sample(self, count: int) -> tuple[str, str]:
        """A piece of validation text, and how the model would go on."""
        prompt = self.text.validation[: self.options.context]
        torch.manual_seed(self.options.seed)
        self.model.eval()
        with self._autocast():
            out = self.model.generate(prompt.long()[None].to(self.device), count)
        self.model.train()
        return decode(prompt), decode(out[0].cpu().to(torch.uint8))

    def run(self) -> None:
        """Trains to the end, or until Ctrl-C: then the step is finished and all state is saved."""
        options = self.options
        bar = Progress(options.steps, options.batch * options.context)
        with FinishStepOnInterrupt() as interrupt:
            last = self.step == options.steps
            while not last:
                loss = self.train_step()
                # Asked once a step: a Ctrl-C that comes later ends the next one, and is not missed
                # by the save.
                last = self.step == options.steps or interrupt.requested
                if self.step % options.log_every == 0 or last:
                    self.history.train.append((self.step, loss.item()))
                    self.clock.read(self.step)
                    bar.show(self.step, self.history, self.clock)
                if self.step % options.validate_every == 0 or last:
                    self.history.validation.append((self.step, self.validation_loss()))
                    self.save()
                    self.clock.skip(self.step)
            bar.close(self.step, self.history, self.clock)
        if self.step < options.steps:
            print(f"stopped after step {self.step}; --resume goes on")
            sys.exit(130)

    # -- checkpoints --

    def checkpoint_path(self) -> Path:
        return self.options.out / f"gpt-{self.device.type}.pt"

    def save(self) -> None:
        """Writes a checkpoint; a crash while writing leaves the one before."""
        self.options.out.mkdir(parents=True, exist_ok=True)
        temporary = self.checkpoint_path().with_suffix(".tmp")
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "step": self.step,
            "history": asdict(self.history),
            "random": random_state(self.device),
            "options": model_options(self.options),
        }
        torch.save(state, temporary)
        os.replace(temporary, self.checkpoint_path())

    def load(self) -> None:
        """Goes on where a checkpoint of the same model stopped."""
        if not self.checkpoint_path().exists():
            sys.exit(f"--resume: there is no checkpoint {self.checkpoint_path()}")
        state = torch.load(self.checkpoint_path(), map_location=self.device, weights_only=True)
        if state["options"] != model_options(self.options):
            sys.exit(f"--resume: the checkpoint was trained with {state['options']}")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.step = state["step"]
        self.history = History(**state["history"])
        set_random_state(self.device, state["random"])


def random_state(device: torch.device) -> list[Tensor]:
    states = [torch.get_rng_state()]
    if device.type != "cpu":
        states.append(torch.get_device_module(device).get_rng_state())
    return states


def set_random_state(device: torch.device, states: list[Tensor]) -> None:
    torch.set_rng_state(states[0].cpu())
    if device.type != "cpu":
        torch.get_device_module(device).set_rng_state(states[1].cpu())


def model_options(options: argparse.Namespace) -> dict:
    """The options that a checkpoint and the run that resumes it must share."""
    names = ("layers", "width", "heads", "context", "batch", "steps", "dropout", "seed")
    return {name: getattr(options, name) for name in names}


def decode(tokens: Tensor) -> str:
    return bytes(tokens.tolist()).decode("utf-8", errors="replace")


# ---- what the user sees ----


class FinishStepOnInterrupt:
    """The first Ctrl-C asks the loop to stop after this step, the second stops it at once."""

    requested = False

    def __enter__(self) -> "FinishStepOnInterrupt":
        self._previous = signal.signal(signal.SIGINT, self._handle)
        return self

    def _handle(self, *_: object) -> None:
        self.requested = True
        signal.signal(signal.SIGINT, self._previous)

    def __exit__(self, *exception: object) -> None:
        signal.signal(signal.SIGINT, self._previous)


class StepClock:
    """Time per training step. It starts at the first reading, when all caches are warm, and stands
    still during validation. Whoever reads it has just waited for the device."""

    def __init__(self):
        self.seconds = 0.0
        self.steps = 0
        self._last: tuple[int, float] | None = None

    def read(self, step: int) -> None:
        now = time.perf_counter()
        if self._last is not None:
            self.steps += step - self._last[0]
            self.seconds += now - self._last[1]
        self._last = (step, now)

    def skip(self, step: int) -> None:
        """What happened since the last reading does not count."""
        self._last = (step, time.perf_counter())

    def seconds_per_step(self) -> float:
        return self.seconds / self.steps if self.steps else math.nan


class Progress:
    """One line that is written over on a terminal; ten lines a run elsewhere."""

    WIDTH = 24

    def __init__(self, steps: int, tokens_per_step: int):
        self.steps = steps
        self.tokens_per_step = tokens_per_step
        self.terminal = sys.stdout.isatty()
        self.next_line = 0

    def show(self, step: int, history: History, clock: StepClock) -> None:
        if self.terminal:
            print(f"\r{self._line(step, history, clock)}\033[K", end="", flush=True)
        elif step >= self.next_line:
            self.next_line = step + self.steps // 10
            print(self._line(step, history, clock), flush=True)

    def close(self, step: int, history: History, clock: StepClock) -> None:
        print(f"{chr(13) if self.terminal else ''}{self._line(step, history, clock)}")

    def _line(self, step: int, history: History, clock: StepClock) -> str:
        filled = self.WIDTH * step // self.steps
        parts = [f"{'█' * filled}{'░' * (self.WIDTH - filled)} {step}/{self.steps}"]
        if history.train:
            parts.append(f"loss {history.train[-1][1]:.3f}")
        if history.validation:
            parts.append(f"validation {history.validation[-1][1]:.3f}")
        if clock.steps:
            left = round(clock.seconds_per_step() * (self.steps - step))
            parts.append(f"{self.tokens_per_step / clock.seconds_per_step():,.0f} tokens/s")
            parts.append(f"{left // 60}:{left % 60:02d} left")
        return "  ".join(parts)


def draw(histories: dict[str, History], entropy: float, path: Path) -> str:
    """Writes the loss curves as a PNG; returns what to tell the user."""
    try:
        import matplotlib
    except ImportError:
        return "no loss curve: matplotlib is not installed (pip install matplotlib)"
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5))
    for name, history in histories.items():
        (line,) = axes.plot(*zip(*history.train, strict=True), alpha=0.4)
        axes.plot(
            *zip(*history.validation, strict=True),
            color=line.get_color(),
            marker="o",
            label=f"{name}, validation {history.validation[-1][1]:.3f}",
        )
    axes.axhline(entropy, color="grey", linestyle="--", label=f"byte unigrams {entropy:.3f}")
    axes.set(xlabel="step", ylabel="loss (nats per byte)", title="GPT on Python's standard library")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120, bbox_inches="tight")
    return f"loss curve: {path}"


def option_parser(description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="accel", help="accel (default), cpu, cuda, ...")
    parser.add_argument("--amp", action="store_true", help="autocast to bfloat16")
    parser.add_argument("--out", type=Path, default=Path("build/train"), help="where files go")
    for name, default in (
        ("steps", 600),
        ("batch", 8),
        ("layers", 4),
        ("width", 256),
        ("heads", 8),
        ("context", 128),
        ("log-every", 10),
        ("validate-every", 100),
        ("sample", 400),
        ("seed", 0),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"default: {default}")
    for name, default in (("learning-rate", 1e-3), ("dropout", 0.1)):
        parser.add_argument(f"--{name}", type=float, default=default, help=f"default: {default}")
    return parser


def parse_options() -> argparse.Namespace:
    parser = option_parser(__doc__)
    parser.add_argument("--compare", action="store_true", help="run the same steps on the CPU too")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    options = parser.parse_args()
    if options.compare and (options.resume or options.device == "cpu"):
        parser.error("--compare runs a device and the CPU from the start")
    return options


def main() -> None:
    options = parse_options()
    text = Text(options.context)
    entropy = text.unigram_entropy()
    devices = [options.device] + (["cpu"] if options.compare else [])
    trainers: dict[str, Trainer] = {}
    for device in devices:
        trainer = trainers[device] = Trainer(options, device, text)
        if options.resume:
            trainer.load()
        parameters = sum(p.numel() for p in trainer.model.parameters())
        print(
            f"{device}: {parameters / 1e6:.1f} M parameters, "
            f"{options.steps} steps of {options.batch} × {options.context} bytes, "
            f"{'bfloat16 autocast' if options.amp else 'float32'}"
        )
        trainer.run()

    prompt, continuation = trainers[options.device].sample(options.sample)
    print(f"\n---- a sample, after {prompt[-40:]!r} ----\n{continuation}\n----\n")
    print(f"byte-unigram entropy {entropy:.3f} nats")
    for device, trainer in trainers.items():
        print(
            f"{device + ':':<8}validation loss {trainer.history.validation[-1][1]:.3f}, "
            f"training loss {trainer.history.train[-1][1]:.3f}, "
            f"{1e3 * trainer.clock.seconds_per_step():.1f} ms a step"
        )
    if options.compare:
        times = [trainers[device].clock.seconds_per_step() for device in devices]
        print(f"{devices[0]} is {times[1] / times[0]:.2f}× as fast as {devices[1]}")
    histories = {device: trainer.history for device, trainer in trainers.items()}
    print(f"checkpoint: {trainers[options.device].checkpoint_path()}")
    print(draw(histories, entropy, options.out / "loss.png"))


if __name__ == "__main__":
    main()
