"""Runs the distributed tests that ship in PyTorch's wheel on accel, and writes
docs/distributed_coverage.md: what ran, what passed, and what was skipped and why.

    python tools/distributed_coverage.py                    # all runs, then the document
    python tools/distributed_coverage.py --run gloo -k ddp  # one run, some tests

PyTorch's tests know devices and backends by name and skip those they do not know. So the source of
the modules below is read with other names in it, and nothing else changes:

    gloo     as they are: Gloo on CPU tensors, the reference
    tensors  the same tests with "accl" for "gloo", and accel as the device where none is given
    devices  "accl" for "nccl" and accel for cuda: the tests for accelerators
    helpers  PyTorch's FSDP and DTensor helper classes, on accel
"""

import argparse
import collections
import importlib.abc
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
INTERNAL = "torch.testing._internal."
TRANSLATED = [
    INTERNAL + name
    for name in (
        "common_distributed",
        "common_fsdp",
        "distributed.distributed_test",
        "distributed._tensor.common_dtensor",
    )
]
RUNS = ("gloo", "tensors", "devices", "helpers")
RANKS = {"gloo": 3, "tensors": 3, "devices": 2, "helpers": 2}
# Seconds for one test; a test that takes longer has failed.
LIMIT = 180

# ---- other names ----

CUDA_TO_ACCEL = [
    (r"torch\.cuda\.amp import autocast, GradScaler", "torch.amp import autocast, GradScaler"),
    (r"\bautocast\(\)", 'autocast("accel")'),
    (r"^import torch\.cuda$", "import torch.accel"),
    (r"torch\.cuda\b(?!\.nccl)", "torch.accel"),
    (r"\.cuda\(", ".accel("),
    (r"\.is_cuda\b", ".is_accel"),
    (r'(["\'])cuda(:|["\'])', r"\1accel\2"),
    (r'(["\'])nccl(["\'])', r"\1accl\2"),
    (r"DeviceType\.CUDA", "DeviceType.PrivateUse1"),
    (r"ProfilerActivity\.CUDA", "ProfilerActivity.PrivateUse1"),
    (r"\bTEST_CUDA\b(?!,)", "True"),
    (r"dist\.Backend\.NCCL", "dist.Backend.ACCL"),
    (r"dist\.is_nccl_available", "dist.is_available"),
]
GLOO_TO_ACCL = [
    # But not where the logger is asked for Gloo's settings.
    (r'(?<!"backend_name"\) == )(["\'])gloo(["\'])', r"\1accl\2"),
    (r"dist\.Backend\.GLOO", "dist.Backend.ACCL"),
    # These are on the CPU whatever the default device.
    (r"torch\.DoubleTensor\(1\)", "torch.empty(1, dtype=torch.double)"),
    (r"torch\.Tensor\(\[caught\]\)", "torch.tensor([float(caught)])"),
]
RULES = {
    "gloo": [],
    "tensors": GLOO_TO_ACCL,
    "devices": CUDA_TO_ACCEL,
    "helpers": CUDA_TO_ACCEL,
}


class Translator(importlib.abc.MetaPathFinder):
    """Loads the modules of TRANSLATED from their source with other names in it."""

    def __init__(self, rules: list[tuple[str, str]]):
        self.rules = rules

    def find_spec(self, name, path, target=None):
        if name not in TRANSLATED:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        sys.meta_path.insert(0, self)

        def execute(module) -> None:
            source = Path(spec.origin).read_text()
            for pattern, replacement in self.rules:
                source = re.sub(pattern, replacement, source, flags=re.MULTILINE)
            exec(compile(source, spec.origin, "exec"), module.__dict__)

        spec.loader.exec_module = execute
        return spec


# ---- the tests ----


def test_classes(run: str) -> list[type[unittest.TestCase]]:
    """In every process of a run; ranks find the classes by their names in this module."""
    sys.meta_path.insert(0, Translator(RULES[run]))
    classes = helper_tests() if run == "helpers" else [distributed_tests(run)]
    for kind in classes:
        kind.__qualname__ = kind.__name__
        globals()[kind.__name__] = kind
    return classes


def distributed_tests(run: str) -> type[unittest.TestCase]:
    import torch
    from torch.testing._internal.distributed import distributed_test

    # Ranks do not see what the parent's environment becomes, so the folder is the same for all.
    folder = Path(os.environ["TEMP_DIR"])
    distributed_test.initialize_temp_directories = lambda: None
    distributed_test.cleanup_temp_dir = lambda: None

    class TestDistributed(
        distributed_test.TestDistBackend, distributed_test.DistributedTest._DistTestBase
    ):
        def setUp(self) -> None:
            for name in ("barrier", "test_dir"):
                shutil.rmtree(folder / name, ignore_errors=True)
                (folder / name).mkdir()
            super().setUp()
            self._spawn_processes()

        def _spawn_processes(self) -> None:
            self._start_processes(_context().Process)

        @classmethod
        def _run(cls, rank, *arguments, **options):
            if run == "tensors":
                torch.set_default_device("accel")
            elif run == "devices":
                torch.accel.set_device(rank)
            return super()._run(rank, *arguments, **options)

    return TestDistributed


def _context():
    """Ranks are forked from a process that has imported everything and used nothing."""
    import multiprocessing

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def helper_tests() -> list[type[unittest.TestCase]]:
    """What PyTorch's helper classes check by themselves: FSDP against DDP on its models, tensor
    parallelism of its transformer against one process, every conversion of DTensorConverter."""
    import torch
    from torch.distributed.fsdp import CPUOffload, ShardingStrategy
    from torch.testing._internal import common_fsdp
    from torch.testing._internal.distributed._tensor import common_dtensor

    class TestHelpers(common_dtensor.DTensorTestBase):
        @property
        def world_size(self) -> int:
            return RANKS["helpers"]

        def _spawn_processes(self) -> None:
            self._start_processes(_context().Process)

        def _check_transformer(self, sequence_parallel: bool) -> None:
            arguments = common_dtensor.ModelArgs(dropout_p=0.0)
            torch.manual_seed(5)
            model = common_dtensor.Transformer(arguments).to(self.device_type)
            torch.manual_seed(5)
            divided = common_dtensor.Transformer(arguments).to(self.device_type)
            divided = common_dtensor.Transformer.parallelize(
                divided,
                common_dtensor.DeviceMesh(self.device_type, torch.arange(self.world_size)),
                sequence_parallel,
            )
            # One parameter at a time: only some of them are DTensors.
            optimizers = [
                torch.optim.Adam(m.parameters(), lr=0.25, foreach=False) for m in (model, divided)
            ]
            for seed in range(2):
                torch.manual_seed(seed)
                tokens = torch.randint(arguments.vocab_size, (4, 8), device=self.device_type)
                sums = [m(tokens).sum() for m in (model, divided)]
                self.assertEqual(sums[1], sums[0])
                for total, optimizer in zip(sums, optimizers):
                    total.backward()
                    optimizer.step()
                    optimizer.zero_grad()
            for name, parameter in model.named_parameters():
                other = dict(divided.named_parameters())[name]
                full = other.full_tensor() if hasattr(other, "full_tensor") else other
                self.assertEqual(full, parameter, name)

        @common_dtensor.with_comms
        def test_transformer_tensor_parallel(self):
            self._check_transformer(sequence_parallel=False)

        @common_dtensor.with_comms
        def test_transformer_sequence_parallel(self):
            self._check_transformer(sequence_parallel=True)

        def _check_converter(self, operation, *shapes) -> None:
            mesh = self.build_device_mesh()
            tensors = [torch.rand(shape, device=self.device_type) for shape in shapes]
            want = operation(*tensors)
            converter = common_dtensor.DTensorConverter(mesh, tuple(tensors), {})
            for arguments, _ in converter:
                self.assertTrue(converter.successful())
                self.assertEqual(operation(*arguments).full_tensor(), want)

        @common_dtensor.with_comms
        def test_converter_add(self):
            self._check_converter(torch.add, (4, 6), (4, 6))

        @common_dtensor.with_comms
        def test_converter_matmul(self):
            self._check_converter(torch.mm, (4, 6), (6, 8))

        @common_dtensor.with_comms
        def test_converter_softmax(self):
            self._check_converter(lambda x: x.softmax(-1), (4, 6))

        @common_dtensor.with_comms
        def test_converter_sum(self):
            self._check_converter(lambda x: x.sum(0), (4, 6))

        @common_dtensor.with_comms
        def test_converter_cat(self):
            self._check_converter(lambda x, y: torch.cat([x, y]), (4, 6), (4, 6))

    models = {
        "transformer": common_fsdp.TransformerWithSharedParams,
        "nested": common_fsdp.NestedWrappedModule,
        "nested_with_delay": common_fsdp.NestedWrappedModuleWithDelay,
        "always_wrapped": common_fsdp.AlwaysWrapNestedWrappedModule,
        "mixture_of_experts": common_fsdp.MixtureOfExperts,
    }
    options = {
        "full_shard": {"sharding_strategy": ShardingStrategy.FULL_SHARD},
        "shard_grad_op": {"sharding_strategy": ShardingStrategy.SHARD_GRAD_OP},
        "no_shard": {"sharding_strategy": ShardingStrategy.NO_SHARD},
        "original_parameters": {"use_orig_params": True},
        "cpu_offload": {"cpu_offload": CPUOffload(offload_params=True)},
        "forward_prefetch": {"forward_prefetch": True},
    }

    class TestFSDP(common_fsdp.FSDPTest):
        @property
        def world_size(self) -> int:
            return RANKS["helpers"]

        def _spawn_processes(self) -> None:
            self._start_processes(_context().Process)

    def parity(model, option: str):
        def test(self) -> None:
            after = common_fsdp.DEVICEInitMode.DEVICE_AFTER
            never = common_fsdp.DEVICEInitMode.DEVICE_NEVER
            # A mixture of experts is no data parallel model as a whole: its reference is its own.
            is_mixture = model is common_fsdp.MixtureOfExperts
            self._test_fsdp_parity(
                model,
                common_fsdp.FSDPInitMode.RECURSIVE,
                never if option == "cpu_offload" else after,
                ref_init_fn=common_fsdp.DummyDDP if is_mixture else None,
                **options[option],
            )

        return test

    for model_name, model in models.items():
        for option in options:
            name = f"test_fsdp_{model_name}_{option}"
            setattr(TestFSDP, name, parity(model, option))

    return [TestHelpers, TestFSDP]


# ---- one run ----


class Outcomes(unittest.TextTestResult):
    """Writes {test: [outcome, reason]} as it goes, a line a test, to a file."""

    path: Path

    def _record(self, test: unittest.TestCase, outcome: str, reason: str = "") -> None:
        seconds = time.monotonic() - self._start
        with self.path.open("a") as file:
            file.write(json.dumps([test._testMethodName, outcome, reason, seconds]) + "\n")

    def startTest(self, test):  # noqa: N802
        self._start = time.monotonic()
        super().startTest(test)

    def addSuccess(self, test):  # noqa: N802
        super().addSuccess(test)
        self._record(test, "passed")

    def addSkip(self, test, reason):  # noqa: N802
        super().addSkip(test, reason)
        self._record(test, "skipped", reason)

    def _wrong(self, test, error) -> None:
        lines = [line for line in str(error[1]).splitlines() if line.strip()]
        own = [line for line in lines if re.match(r"\w*(Error|Exception)\b", line)]
        self._record(test, "failed", (own or lines or [error[0].__name__])[-1][:300])

    def addFailure(self, test, error):  # noqa: N802
        super().addFailure(test, error)
        self._wrong(test, error)

    def addError(self, test, error):  # noqa: N802
        super().addError(test, error)
        self._wrong(test, error)


def run_tests(names: str, into: str) -> None:
    """In a process of its own: the tests of a run whose names match and that `path` does not hold
    yet."""
    path = Path(into)
    lines = path.read_text().splitlines() if path.exists() else []
    done = {json.loads(line)[0] for line in lines}
    suite = unittest.TestSuite()
    for kind in CLASSES:
        for name in unittest.TestLoader().getTestCaseNames(kind):
            if re.search(names, name) and name not in done:
                suite.addTest(kind(name))
    Outcomes.path = path
    unittest.TextTestRunner(resultclass=Outcomes, verbosity=2).run(suite)


def start_run(run: str, names: str, path: Path) -> None:
    environment = {
        **os.environ,
        "ACCEL_COVERAGE_RUN": run,
        "BACKEND": "gloo" if run == "gloo" else "accl",
        "WORLD_SIZE": str(RANKS[run]),
        "ACCEL_DEVICE_COUNT": "1" if run == "gloo" else str(RANKS[run]),
        "OMP_NUM_THREADS": "1",
        "DISTRIBUTED_TESTS_DEFAULT_TIMEOUT": str(LIMIT),
        "MASTER_ADDR": "localhost",
        "PYTHONPATH": str(Path(__file__).parent),
    }
    with tempfile.TemporaryDirectory() as folder:
        environment["TEMP_DIR"] = folder
        program = f"import {Path(__file__).stem} as tool, sys; tool.run_tests(*sys.argv[1:])"
        command = [sys.executable, "-c", program, names, str(path)]
        subprocess.run(command, env=environment, check=False)


# ---- the document ----

TITLES = {
    "gloo": "Gloo on the CPU: the reference",
    "tensors": "accl and accel in the place of Gloo and the CPU",
    "devices": "accl and accel in the place of NCCL and CUDA",
    "helpers": "PyTorch's FSDP and DTensor helpers, on accel",
}


def document(results: dict[str, dict[str, tuple[str, str]]]) -> str:
    lines = [
        "# PyTorch's own distributed tests on accel",
        "",
        "Written by `make distributed-coverage`: the tests of",
        "`torch.testing._internal.distributed.distributed_test` as the wheel ships them, and what",
        "its FSDP and DTensor helper classes check. `tools/distributed_coverage.py` says how.",
        "",
        "| run | passed | failed | skipped |",
        "|---|---|---|---|",
    ]
    for run, outcomes in results.items():
        counts = collections.Counter(outcome for outcome, _ in outcomes.values())
        lines.append(
            f"| {TITLES[run]} | {counts['passed']} | {counts['failed']} | {counts['skipped']} |"
        )
    lost = [
        name
        for name, (outcome, _) in results.get("gloo", {}).items()
        if outcome == "passed" and results["tensors"].get(name, ("missing",))[0] != "passed"
    ]
    lines += [
        "",
        f"Tests that pass on Gloo and the CPU and not on accel: {len(lost)}"
        + "".join(
            f"\n- `{name}`: {results['tensors'].get(name, ('missing', ''))[1]}" for name in lost
        ),
    ]
    for run, outcomes in results.items():
        lines += ["", f"## {TITLES[run]}"]
        failed = {name: why for name, (outcome, why) in outcomes.items() if outcome == "failed"}
        if failed:
            lines += ["", "Failed:", ""]
            lines += [f"- `{name}`: {why}" for name, why in sorted(failed.items())]
        reasons = collections.defaultdict(list)
        for name, (outcome, why) in outcomes.items():
            if outcome == "skipped":
                reasons[why].append(name)
        if reasons:
            lines += [
                "",
                "Skipped, by the reason PyTorch gives:",
                "",
                "| reason | tests |",
                "|---|---|",
            ]
            ordered = sorted(reasons.items(), key=lambda item: -len(item[1]))
            lines += [f"| {why} | {len(names)} |" for why, names in ordered]
        passed = sorted(name for name, (outcome, _) in outcomes.items() if outcome == "passed")
        lines += ["", f"Passed: {', '.join(f'`{name}`' for name in passed)}."]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", choices=RUNS, help="one run; nothing is written to docs/")
    parser.add_argument("-k", default="", metavar="PATTERN", help="tests whose names match")
    parser.add_argument(
        "--into", type=Path, help="where a run's outcomes go; it goes on from there"
    )
    options = parser.parse_args()
    folder = options.into.parent if options.into else Path(tempfile.mkdtemp())
    results = {}
    for run in [options.run] if options.run else RUNS:
        path = options.into or folder / f"{run}.jsonl"
        start_run(run, options.k, path)
        rows = map(json.loads, path.read_text().splitlines())
        results[run] = {name: (outcome, reason) for name, outcome, reason, _ in rows}
        print(run, collections.Counter(outcome for outcome, _ in results[run].values()))
    if not options.run:
        (ROOT / "docs" / "distributed_coverage.md").write_text(document(results))


# Every process of a run imports this file, the ranks' parent before they are forked from it.
RUN = os.environ.get("ACCEL_COVERAGE_RUN")
CLASSES = test_classes(RUN) if RUN else []

if __name__ == "__main__":
    main()
