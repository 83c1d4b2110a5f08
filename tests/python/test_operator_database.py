"""PyTorch's operator database on accel: see operator_database.py. One test for each operator and
kind of use, over all its dtypes."""

import gc
from collections import defaultdict

import pytest
from memory import allocated
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


@pytest.fixture(autouse=True, scope="module")
def quick_collections():
    """What was there before the tests is no garbage: collections need not look at it each time."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def no_memory_is_kept():
    """What a test took it has given back."""
    before = allocated()
    yield
    assert allocated(at_most=before) <= before


@pytest.mark.parametrize(("kind", "entries"), CASES)
def test_as_on_the_cpu(kind, entries):
    found = [
        f"{variant}: {text}"
        for variant in entries
        if has(variant, kind)
        for text in check(variant, kind)
    ]
    assert not found, f"{len(found)} differences, first: {found[:3]}"
