"""A world of volumes for each test."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from fake_serve import FakeServe
from volume_world import World


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder whose path leaves room for a socket's name (sun_path has 108 bytes)."""
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="oma-") as folder:
        yield Path(folder)


@pytest.fixture
def serve(short_path: Path) -> Iterator[FakeServe]:
    server = FakeServe(short_path / "c")
    yield server
    server.stop()


@pytest.fixture
def world(short_path: Path, serve: FakeServe) -> Iterator[World]:
    world = World(short_path, serve)
    yield world
    world.close()
