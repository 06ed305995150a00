"""What the tests of TLS share."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory whose path is short enough for sockets (unix(7))."""
    path = Path(tempfile.mkdtemp(prefix="oma-", dir="/tmp"))
    yield path
    shutil.rmtree(path)
