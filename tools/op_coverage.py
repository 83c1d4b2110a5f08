"""Writes docs/op_coverage.md: for each row of PyTorch's operator database what accel does with it.

Every sample of a row runs on accel, forward and backward, in one dtype (float32 where the row has
it), and torch.accel.report() says what ran. Nothing in the table is written by hand.

    python tools/op_coverage.py            write the table
    python tools/op_coverage.py --check    exit with 1 where the table is not what would be written
"""

import argparse
import os
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("ACCEL_FALLBACK", "quiet")
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "python"))

import torch  # noqa: E402
from operator_database import (  # noqa: E402
    Mover,
    Variant,
    call_of,
    has,
    is_reference,
    samples,
    variants,
)
from torch.utils import _pytree as pytree  # noqa: E402

TABLE = ROOT / "docs" / "op_coverage.md"
TIERS = ("native", "host op", "waits", "fallback")  # from best to worst
# What report() calls the reading of memory that is no property of the operator.
NOT_OF_THE_OPERATOR = "first run of "

HEAD = """# Operator coverage

Written by `make op-coverage` from what ran; do not edit. One line for each row of PyTorch's
operator database (torch {torch}), run with all its samples in the dtype that the line names.

| tier | meaning | forward | backward |
|---|---|---:|---:|
| native | recorded, fused or in an own kernel | {forward[native]} | {backward[native]} |
| host op | recorded; runs ATen's CPU kernel on the stream; nobody waits | {forward[host op]} | \
{backward[host op]} |
| waits | the host reads a value: sizes or results depend on data | {forward[waits]} | \
{backward[waits]} |
| fallback | waits and runs on the host | {forward[fallback]} | {backward[fallback]} |

A row has the worst tier that any of its samples needs; the last column names the ATen ops that are
not native. Rows without a backward have a dash there; rows that run on CUDA alone are left out.
Whether results agree with the CPU's, in every dtype, is what tests/python/test_operator_database.py
checks.

| operator | dtype | forward | backward | not native |
|---|---|---|---|---|
"""


class Tally:
    """The worst tier of some calls, and the ATen ops that were not native. What raises (here and on
    the CPU, as the tests demand) counts for nothing."""

    def __init__(self):
        self.ran = False
        self.tier = "native"
        self.ops: set[str] = set()

    def run(self, function: Callable[[], object]) -> object:
        torch.accel.synchronize()
        torch.accel.reset_counters()
        try:
            result = function()
        except Exception:
            return None
        torch.accel.synchronize()
        self.ran = True
        report = torch.accel.report()
        reads = {n for n in report.get("read", {}) if not n.startswith(NOT_OF_THE_OPERATOR)}
        found = (
            ("host op", set(report.get("host_op", {}))),
            ("waits", reads),
            ("fallback", set(report.get("fallback", {}))),
        )
        for tier, ops in found:
            if ops:
                self.tier = max(self.tier, tier, key=TIERS.index)
                self.ops |= ops
        return result


def coverage(variant: Variant) -> tuple[Tally, Tally]:
    """What the row's samples need, forward and backward."""
    forward = Tally()
    for sample in samples(variant, "forward"):
        x, args, kwargs = Mover("accel")(call_of(sample))
        forward.run(lambda x=x, args=args, kwargs=kwargs: variant.op(x, *args, **kwargs))
    backward = Tally()
    if not has(variant, "backward"):
        return forward, backward
    for sample in samples(variant, "backward"):
        x, args, kwargs = Mover("accel")(call_of(sample))
        result = forward.run(lambda x=x, args=args, kwargs=kwargs: variant.op(x, *args, **kwargs))
        result = sample.output_process_fn_grad(result)
        roots = [
            t for t in pytree.tree_leaves(result) if isinstance(t, torch.Tensor) and t.requires_grad
        ]
        if not roots or any(t.layout != torch.strided for t in roots):
            continue
        seeds = [torch.ones_like(t) for t in roots]
        backward.run(lambda roots=roots, seeds=seeds: torch.autograd.backward(roots, seeds))
    return forward, backward


def rows() -> list[Variant]:
    """The first dtype of every row of the database: float32 where there is one."""
    result: dict[str, Variant] = {}
    for variant in variants():
        if is_reference(variant.op):
            continue
        result.setdefault(variant.op.full_name, variant)
    return [result[name] for name in sorted(result)]


def table() -> str:
    lines, counts = [], {"forward": Counter(), "backward": Counter()}
    for variant in rows():
        forward, backward = coverage(variant)
        if not forward.ran:
            continue
        for use, tally in (("forward", forward), ("backward", backward)):
            counts[use][tally.tier] += tally.ran
        ops = sorted(forward.ops | backward.ops)
        lines.append(
            f"| {variant.op.full_name} | {str(variant.dtype).removeprefix('torch.')} "
            f"| {forward.tier} | {backward.tier if backward.ran else '–'} "
            f"| {', '.join(name.removeprefix('aten::') for name in ops)} |\n"
        )
    counts = {use: {tier: tiers[tier] for tier in TIERS} for use, tiers in counts.items()}
    return HEAD.format(torch=torch.__version__.split("+")[0], **counts) + "".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare, do not write")
    check = parser.parse_args().check
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = table()
    if not check:
        TABLE.write_text(made)
        return 0
    kept = TABLE.read_text() if TABLE.exists() else ""
    if kept == made:
        return 0
    different = sorted(set(made.splitlines()) ^ set(kept.splitlines()))
    print(f"{TABLE.relative_to(ROOT)} is out of date: run make op-coverage", file=sys.stderr)
    print("\n".join(different[:20]), file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
