"""Fixtures that every test may use."""

import os

import pytest

from certificates import Pki, made

# Under `make asan` the sanitizer is preloaded into this process; programs of others, started from here, hang in it.
if "libasan" in os.environ.get("LD_PRELOAD", ""):
    del os.environ["LD_PRELOAD"]


@pytest.fixture(scope="session")
def pki(tmp_path_factory) -> Pki:
    """An authority, and the files of TLS that it and another one made."""
    return made(tmp_path_factory.mktemp("pki"))
