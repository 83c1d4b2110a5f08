"""torch.accel.report(): what the device did, as the extension counted it."""

from torch_accel import _C


class Report(dict):
    """The counters by section; printing it gives a table."""

    def __str__(self) -> str:
        lines: list[str] = []
        for section, entries in self.items():
            if not isinstance(entries, dict):
                lines.append(f"{section}: {entries}")
                continue
            lines.append(f"{section}:" if entries else f"{section}: none")
            ordered = sorted(entries.items(), key=lambda entry: (-_number(entry[1]), entry[0]))
            lines.extend(f"  {_number(count):>12,}  {name}" for name, count in ordered)
        return "\n".join(lines)


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0


def counters() -> dict[str, int]:
    """The totals since the start or reset_counters().

    plan_hits, plan_misses: Segments whose Plan was, or was not, in the cache.
    segments, nodes, launches: what was handed over and run.
    idle_segments: those that an idle worker took before they were full.
    regions: runs of what torch.compile or a graph captured.
    plan_nanoseconds: time spent on planning. cached_plans: Plans in the cache now.
    waits: times the host waited for a value.
    host_ops, host_op_copies: ATen CPU kernels run on the stream, and those that had to copy.
    fallbacks: ops that waited for the stream and ran on the host.
    """
    return _C.counters()


def report() -> Report:
    """The totals of counters() and what lies behind them: waits by reason, host ops and fallbacks
    by op, "read": what made the host read device memory, whether or not it had to wait then, and
    "not_captured": why graphs of torch.compile ran op by op.
    `print(torch.accel.report())` gives a table."""
    return Report(_C.report())


def reset_counters() -> None:
    """Sets all counters to zero. Cached Plans stay."""
    _C.reset_counters()
