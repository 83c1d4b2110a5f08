"""torchrun: devices and cores of the ranks, restarts from a checkpoint, several hosts."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import gpt
import pytest
import torch
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

CORES = len(os.sched_getaffinity(0))
TINY = (
    "--steps 20 --batch 8 --layers 2 --width 32 --heads 4 --context 16 --log-every 5 "
    "--validate-every 6"
).split()


def torchrun(
    *arguments: object, timeout: float = 300, **variables: str | None
) -> subprocess.CompletedProcess:
    """Runs torchrun to its end, in this environment and these variables (None: not set)."""
    return finish(start_torchrun(*arguments, **variables), timeout)


def start_torchrun(*arguments: object, **variables: str | None) -> subprocess.Popen:
    # What the test run itself was started with is not the user's choice.
    hidden = ("OMP_NUM_THREADS", "ACCEL_DEVICE_COUNT")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    environment.update({name: value for name, value in variables.items() if value is not None})
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", *map(str, arguments)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen, timeout: float = 300) -> subprocess.CompletedProcess:
    try:
        out, _ = process.communicate(timeout=timeout)
    finally:
        process.terminate()  # the agent ends its workers
        process.wait(30)
    assert process.returncode == 0, out
    return subprocess.CompletedProcess(process.args, process.returncode, out)


@pytest.fixture
def program(tmp_path: Path):
    """Writes a program and returns its path."""

    def write(code: str) -> Path:
        path = tmp_path / "program.py"
        path.write_text(textwrap.dedent(code))
        return path

    return write


# A program as people write it: every rank takes the device of its local rank. What it sees goes to
# a file of its own, since ranks that print share a line now and then.
REPORT = """
    import json, os, sys
    import torch
    from torch import distributed

    rank = int(os.environ["LOCAL_RANK"])
    torch.accelerator.set_device_index(rank)
    distributed.init_process_group()
    total = torch.ones(4, device=torch.accelerator.current_accelerator()) * (rank + 1)
    distributed.all_reduce(total)
    report = {
        "devices": torch.accelerator.device_count(),
        "device": total.device.index,
        "backend": distributed.group.WORLD._get_backend(total.device).name(),
        "threads": torch.get_num_threads(),
        "total": total.tolist(),
    }
    with open(f"{sys.argv[1]}/{distributed.get_rank()}.json", "w") as file:
        json.dump(report, file)
    distributed.destroy_process_group()
"""


@pytest.mark.parametrize(
    ("ranks", "variables", "count", "threads"),
    [
        ("2", {}, 2, max(1, CORES // 2)),
        ("auto", {"ACCEL_DEVICE_COUNT": "2", "OMP_NUM_THREADS": "1"}, 2, 1),
        ("accel", {"ACCEL_DEVICE_COUNT": "1"}, 1, CORES),
    ],
)
def test_ranks_have_a_device_and_their_part_of_the_cores(
    program, tmp_path: Path, ranks: str, variables: dict, count: int, threads: int
) -> None:
    done = torchrun(f"--nproc-per-node={ranks}", program(REPORT), tmp_path, **variables)
    reports = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("*.json"))]
    world = len(reports)
    assert world == (int(ranks) if ranks.isdecimal() else count)
    for rank, report in enumerate(reports):
        assert report == {
            "devices": count,
            "device": rank,
            "backend": "accl",
            "threads": threads,
            "total": [world * (world + 1) / 2] * 4,
        }
    divided = world > 1 and "OMP_NUM_THREADS" not in variables
    assert (f"{world} ranks share {CORES} cores: {threads} threads" in done.stdout) == divided


@pytest.mark.slow
def test_devices_that_are_too_few_are_named(program, tmp_path: Path) -> None:
    process = start_torchrun(
        "--nproc-per-node=2", program(REPORT), tmp_path, ACCEL_DEVICE_COUNT="1"
    )
    out, _ = process.communicate(timeout=300)
    assert process.returncode != 0
    assert "Expected a device index from 0 to 0, got 1" in out or "there are 1 devices" in out, out


def whole_checkpoint(folder: Path) -> dict:
    """The one checkpoint that a run has left, as plain tensors."""
    (path,) = folder.glob("step-*")
    dcp_to_torch_save(path, folder / "whole.pt")
    return torch.load(folder / "whole.pt", weights_only=False)


def assert_equal(left: object, right: object, where: str = "") -> None:
    """Bit for bit."""
    if isinstance(left, torch.Tensor):
        assert torch.equal(left, right), where
    elif isinstance(left, dict):
        assert left.keys() == right.keys(), where
        for name in left:
            assert_equal(left[name], right[name], f"{where}.{name}")
    elif isinstance(left, list | tuple):
        assert len(left) == len(right), where
        for number, (a, b) in enumerate(zip(left, right)):
            assert_equal(a, b, f"{where}[{number}]")
    else:
        assert left == right, where


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--parallel", "fsdp"]], ids=["ddp", "fsdp2"])
def test_a_restart_ends_where_an_undisturbed_run_does(
    program, tmp_path: Path, options: list[str]
) -> None:
    """Rank 1 is killed after step 13, twice; the run goes on from the checkpoint of step 12."""
    path = program(f"""
        import os, signal, sys
        sys.path.insert(0, {str(gpt.EXAMPLES)!r})
        import train_distributed
        from train_distributed import DistributedTrainer

        class Killed(DistributedTrainer):
            def train_step(self):
                loss = super().train_step()
                starts = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
                if "DISTURB" in os.environ and self.rank == 1 and starts < 2 and self.step == 13:
                    os.kill(os.getpid(), signal.SIGKILL)
                return loss

        train_distributed.DistributedTrainer = Killed
        train_distributed.main()
    """)
    states = []
    for name, variables in (("undisturbed", {}), ("disturbed", {"DISTURB": "1"})):
        arguments = [path, *TINY, *options, "--out", tmp_path / name]
        done = torchrun("--nproc-per-node=2", "--max-restarts=2", *arguments, **variables)
        assert ("goes on after step 12" in done.stdout) == (name == "disturbed"), done.stdout
        states.append(whole_checkpoint(tmp_path / name))
    assert states[0]["step"] == 20
    assert_equal(*states)


@pytest.mark.slow
def test_tensor_parallel_by_one_line_and_checkpoint_for_another_number_of_ranks(
    tmp_path: Path,
) -> None:
    example = gpt.EXAMPLES / "train_distributed.py"
    arguments = [example, *TINY, "--out", tmp_path, "--parallel", "fsdp"]
    first = torchrun("--nproc-per-node=4", *arguments, "--tensor", "2", "--dropout", "0")
    loss = first.stdout.split("validation loss ")[-1].split()[0]
    again = torchrun("--nproc-per-node=2", *arguments, "--dropout", "0")
    assert "goes on after step 20" in again.stdout
    assert again.stdout.split("validation loss ")[-1].split()[0] == loss


@pytest.mark.slow
def test_two_hosts_meet_by_rendezvous(tmp_path: Path) -> None:
    """Two agents, which see two hosts, train what one trains."""
    example = gpt.EXAMPLES / "train_distributed.py"

    def train(name: str, *arguments: object, **variables: str) -> subprocess.Popen:
        options = [*TINY, "--dropout", "0", "--out", tmp_path / name]
        return start_torchrun(*arguments, example, *options, **variables)

    alone = finish(train("alone", "--nproc-per-node=4"))
    # The first agent serves the rendezvous at a port of the system's choice.
    store = torch.distributed.TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    meeting = ("--rdzv-backend=c10d", f"--rdzv-endpoint=localhost:{store.port}", "--rdzv-id=one")
    conf = "--rdzv-conf=is_host=false"
    agents = [
        train("both", "--nnodes=2", "--nproc-per-node=2", *meeting, conf, ACCEL_HOST_ID=host)
        for host in ("a", "b")
    ]
    outputs = [finish(agent).stdout for agent in agents]
    (both,) = [out for out in outputs if "validation loss" in out]
    want, got = (
        float(out.split("validation loss ")[-1].split()[0]) for out in (alone.stdout, both)
    )
    assert got == pytest.approx(want, rel=1e-5)
