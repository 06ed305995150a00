"""One running `omavol serve` a flavour, and the question every test ends with: was anybody else harmed?"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from hostile_target import ENDS_WITHIN, FLAVOURS, GROWTH, MIB, SIZE, Target, descriptors_of, started
from omavol.serve.limits import own_limits
from raw_client import until


@pytest.fixture
def start(pki) -> Iterator[Callable[..., Target]]:
    """Start a server of one's own."""
    with ExitStack() as stack:
        yield lambda flavour, *options: stack.enter_context(started(flavour, *options, pki=pki))


@pytest.fixture(scope="package", params=FLAVOURS)
def target(request, pki) -> Iterator[Target]:
    """The server that all tests of this room ill-treat in turn, and that ends in order after all of them."""
    own_limits()
    with started(request.param, pki=pki) as served:
        with served.client() as first:
            assert first.read(0, SIZE) == served.content()
        served.level = served.private()
        yield served
        assert served.end() < ENDS_WITHIN


@pytest.fixture
def unharmed(target) -> Iterator[Callable[[], None]]:
    """Afterwards a client from before and a new one are served byte for byte, and the server is as large as it was.

    What it gives may be called while the ill-treatment lasts.
    """
    with target.client() as bystander:
        until(lambda: target.entries("fd") == descriptors_of(target))
        threads, descriptors = target.entries("task"), target.entries("fd")

        def served() -> None:
            begun = time.monotonic()
            # What a client that has left asked for may still be written between the two reads.
            until(lambda: bystander.read(0, MIB) == target.content()[:MIB], 10)
            with target.client() as fresh:
                assert fresh.read(0, SIZE) == target.content()
            assert time.monotonic() - begun < 10

        yield served
        served()
        until(lambda: target.entries("fd") == descriptors, 15)
        until(lambda: target.entries("task") == threads, 15)  # a pool's threads end when they have been idle for 2 s
        assert target.private() - target.level < GROWTH
        assert target.process.poll() is None
