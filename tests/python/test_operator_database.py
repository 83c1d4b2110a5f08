"""PyTorch's operator database on accel: see operator_database.py. One test for each operator and
kind of use, over all its dtypes."""

import gc
from collections import defaultdict

import pytest
import torch
from operator_database import KINDS, check, has, variants

pytestmark = pytest.mark.database

_DTYPES = defaultdict(list)
for _variant in variants():
    _DTYPES[_variant.op.full_name.replace(".", "_")].append(_variant)

CASES = [
    pytest.param(kind, entries, id=f"{kind}-{name}")
    for kind in KINDS
    for name, entries in _DTYPES.items()
    if any(has(variant, kind) for variant in entries)
]


@pytest.mark.parametrize(("kind", "entries"), CASES)
def test_as_on_the_cpu(kind, entries):
    found = [
        f"{variant}: {text}"
        for variant in entries
        if has(variant, kind)
        for text in check(variant, kind)
    ]
    assert not found, f"{len(found)} differences, first: {found[:3]}"


def test_no_memory_is_kept():
    """The tests before this one have given back all that they took."""
    gc.collect()
    torch.accel.synchronize()
    before = torch.accel.memory_allocated()
    for entries in list(_DTYPES.values())[::25]:
        check(entries[0], "forward")
    gc.collect()
    torch.accel.synchronize()
    assert torch.accel.memory_allocated() <= before
