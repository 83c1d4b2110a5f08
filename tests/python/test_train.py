"""Training: the loss curve equals the CPU's, mixed precision trains, and the example does what its
help says."""

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "train_gpt.py"


def loss_curve(train_gpt, device: str, steps: int, amp: bool = False, **optimizer) -> list[float]:
    """The losses of a small GPT without dropout on the example's data."""
    text = train_gpt.Text(context=64)
    torch.manual_seed(0)
    config = train_gpt.GPTConfig(layers=2, width=128, heads=4, context=64, dropout=0.0)
    model = train_gpt.GPT(config).to(device)
    adamw = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.1, **optimizer)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adamw, steps)
    losses = []
    for step in range(steps):
        tokens = text.batch(text.train, 8, seed=step).to(device)
        with torch.autocast(device, torch.bfloat16, enabled=amp):
            loss = model.loss(tokens)
        adamw.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adamw.step()
        schedule.step()
        losses.append(loss.detach())
    return torch.stack(losses).tolist()


@pytest.fixture(scope="module")
def cpu_curve(train_gpt) -> list[float]:
    return loss_curve(train_gpt, "cpu", 50)


@pytest.mark.parametrize("kind", ["fused", "foreach", "for loop"])
def test_the_loss_curve_equals_the_cpu_s(train_gpt, cpu_curve, kind):
    options = {"fused": {"fused": True}, "foreach": {"foreach": True}}.get(kind, {"foreach": False})
    curve = loss_curve(train_gpt, "accel", 50, **options)
    assert cpu_curve[-1] < 0.8 * cpu_curve[0]
    assert curve == pytest.approx(cpu_curve, rel=1e-3)


def test_bfloat16_autocast_trains(train_gpt, cpu_curve):
    curve = loss_curve(train_gpt, "accel", 50, amp=True, fused=True)
    assert curve[-1] == pytest.approx(cpu_curve[-1], rel=0.05)


def test_dropout_trains_and_is_repeatable(train_gpt):
    def run() -> list[float]:
        torch.manual_seed(3)
        config = train_gpt.GPTConfig(layers=1, width=64, heads=2, context=32, dropout=0.2)
        model = train_gpt.GPT(config).to("accel")
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        tokens = (torch.arange(8 * 33) * 7 % 256).view(8, 33).to("accel")
        losses = []
        for _ in range(30):
            loss = model.loss(tokens)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses

    first = run()
    assert first[-1] < 0.5 * first[0]
    assert run() == first


SMALL = {"layers": 1, "width": 32, "heads": 2, "context": 32, "sample": 20, "validate-every": 20}


def example(*arguments: str, out: Path) -> list[str]:
    """The command line of a small run of the example."""
    small = [f"--{name}={value}" for name, value in SMALL.items()]
    return [sys.executable, str(EXAMPLE), "--out", str(out), *small, *arguments]


@pytest.mark.slow
def test_the_example_compares_and_draws(tmp_path):
    done = subprocess.run(
        example("--steps", "40", "--compare", out=tmp_path),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"accel is [\d.]+× as fast as cpu", done.stdout)
    assert "byte-unigram entropy 3." in done.stdout
    losses = [float(x) for x in re.findall(r"validation loss ([\d.]+)", done.stdout)]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)
    assert (tmp_path / "gpt-accel.pt").exists()


@pytest.mark.alone
@pytest.mark.slow
def test_the_example_resumes_after_ctrl_c(tmp_path):
    command = example("--steps", "300", out=tmp_path)
    # What a shell starts in the background inherits a SIGINT that is ignored.
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert "steps" in process.stdout.readline()
    process.stdout.readline()  # the first line of progress
    process.send_signal(signal.SIGINT)
    out = process.stdout.read()
    assert process.wait(120) == 130
    stopped = int(re.search(r"stopped after step (\d+)", out)[1])
    assert 0 < stopped < 300
    done = subprocess.run([*command, "--resume"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "300/300" in done.stdout
    first = int(re.search(r" (\d+)/300", done.stdout)[1])
    assert first > stopped


def test_ctrl_c_between_a_step_and_its_end_loses_nothing(train_gpt, tmp_path, monkeypatch):
    arguments = example("--steps", "300", "--log-every", "1", out=tmp_path)[1:]
    monkeypatch.setattr(sys, "argv", arguments)
    options = train_gpt.parse_options()
    trainer = train_gpt.Trainer(options, "accel", train_gpt.Text(options.context))

    def interrupt(*_: object) -> None:
        monkeypatch.undo()
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(train_gpt.Progress, "show", interrupt)
    with pytest.raises(SystemExit) as end:
        trainer.run()
    assert end.value.code == 130
    stopped = trainer.step
    assert 0 < stopped < 300
    trainer.step = 0
    trainer.load()
    assert trainer.step == stopped


PEAK_MEMORY = """
import importlib.util, re, sys, torch
spec = importlib.util.spec_from_file_location("train_gpt", {path!r})
train_gpt = sys.modules["train_gpt"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(train_gpt)
model = train_gpt.GPT(train_gpt.GPTConfig(layers=4, width=256, heads=8)).to({device!r})
optimizer = torch.optim.AdamW(model.parameters(), fused=True)
tokens = torch.randint(256, (8, 129)).to({device!r})
for _ in range(10):
    loss = model.loss(tokens)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
loss.item()
print(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
"""


@pytest.mark.slow
def test_peak_memory_is_at_most_a_tenth_above_the_cpu_s(run_python, train_gpt):
    path = train_gpt.__spec__.origin
    peak = {
        device: int(run_python(PEAK_MEMORY.format(path=path, device=device)).splitlines()[-1])
        for device in ("cpu", "accel")
    }
    assert peak["accel"] <= 1.1 * peak["cpu"], peak
