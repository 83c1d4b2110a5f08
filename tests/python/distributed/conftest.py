"""What the tests of torch.distributed share: ranks that stay."""

from collections.abc import Iterator

import pytest
from ranks import Ranks


@pytest.fixture(scope="session")
def ranks() -> Iterator[Ranks]:
    """ranks(function, *arguments, ranks=2): see ranks.py."""
    pool = Ranks()
    yield pool
    pool.close()
