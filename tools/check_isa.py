"""Checks that no AVX code can reach a machine without AVX.

A *.simd.cpp file is compiled once per instruction set. A weak symbol that such an object shares
with others (an inline function or template outside the variant's namespace, say one of std::)
may be the copy that the linker keeps for everyone, and an older machine would die of an illegal
instruction. No other object may use the wide registers at all, as it would under -march=native.
Called by `make test` and `make check-isa` with the build directory.
"""

import re
import subprocess
import sys
from pathlib import Path

WEAK = set("WwVvu")


def shared_symbols(isa: str, directory: Path) -> list[str]:
    """Weak symbols of the variant's objects that do not name its namespace."""
    marker = f"7kernels{len(isa)}{isa}"  # accel::kernels::<isa>, as the compiler mangles it
    found = []
    for path in sorted(directory.rglob("*.o")):
        lines = subprocess.run(
            ["nm", "--defined-only", "--format=posix", path],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()
        for line in lines:
            name, kind = line.split()[:2]
            # DW.ref.* are pointers to personality routines: data, the same in every object.
            if kind in WEAK and marker not in name and not name.startswith("DW.ref."):
                found.append(f"{path.relative_to(directory)}: {name}")
    return found


WIDE = re.compile(r"%[yz]mm")


def uses_wide_registers(path: Path) -> bool:
    command = ["objdump", "--disassemble", "--no-show-raw-insn", path]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return WIDE.search(text) is not None


def main() -> int:
    build = Path(sys.argv[1])
    bad = 0
    variants = {isa: f"accel_kernels_{isa}.dir" for isa in ("avx2", "avx512")}
    for path in sorted((build / "CMakeFiles").rglob("*.o")):
        if set(path.parts).isdisjoint(variants.values()) and uses_wide_registers(path):
            bad += 1
            print(f"check-isa: {path.relative_to(build)} needs AVX", file=sys.stderr)
    for isa in variants:
        directory = build / "CMakeFiles" / variants[isa]
        if not list(directory.rglob("*.o")):
            print(f"check-isa: no objects in {directory}; build first", file=sys.stderr)
            return 1
        for symbol in shared_symbols(isa, directory):
            bad += 1
            print(f"check-isa: {isa}: {symbol}", file=sys.stderr)
    if bad:
        print(f"check-isa: {bad} leaks between instruction sets", file=sys.stderr)
        return 1
    print("check-isa: AVX2 and AVX-512 code stays in its namespaces")
    return 0


if __name__ == "__main__":
    sys.exit(main())
