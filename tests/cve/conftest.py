"""One server for all faults of others, and the check that it still serves after each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hostile_target import ENDS_WITHIN, SIZE, Target, started


@pytest.fixture(scope="package")
def running() -> Iterator[Target]:
    with started("file") as target:
        yield target
        assert target.end() < ENDS_WITHIN


@pytest.fixture
def target(running) -> Iterator[Target]:
    """A server that was there before the test, is there after it, and gives every byte."""
    yield running
    assert running.process.poll() is None
    with running.client() as client:
        assert client.read(0, SIZE) == running.content()
