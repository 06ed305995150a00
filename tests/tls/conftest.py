"""What the tests of TLS share: an authority, and the files it and another one made."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from certificates import Authority, key_file

KEY = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
OTHER_KEY = "ff" * 32


@dataclass(frozen=True)
class Pki:
    """Directories by what is in them; `keys` has alice, `wrong_keys` has her with another key and bob."""

    authority: Authority
    server: Path
    client: Path
    stranger: Path  # a client certificate of an authority that nobody knows, and that authority
    trusting: Path  # ca-cert.pem alone
    expired: Path
    elsewhere: Path  # a server certificate for another host
    keys: Path
    wrong_keys: Path


@pytest.fixture(scope="session")
def pki(tmp_path_factory) -> Pki:
    root = tmp_path_factory.mktemp("pki")
    authority, other = Authority(root / "ca", "the authority"), Authority(root / "other", "a stranger")
    trusting = root / "trusting"
    trusting.mkdir()
    shutil.copy(authority.certificate, trusting / "ca-cert.pem")
    return Pki(
        authority,
        server=authority.sign(root / "server", "server"),
        client=authority.sign(root / "client", "client"),
        stranger=other.sign(root / "stranger", "client"),
        trusting=trusting,
        expired=authority.sign(root / "expired", "server", days=-1),
        elsewhere=authority.sign(root / "elsewhere", "server", names="DNS:elsewhere.example"),
        keys=key_file(root / "keys.psk", alice=KEY),
        wrong_keys=key_file(root / "wrong.psk", alice=OTHER_KEY, bob=KEY),
    )


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory whose path is short enough for sockets (unix(7))."""
    path = Path(tempfile.mkdtemp(prefix="oma-", dir="/tmp"))
    yield path
    shutil.rmtree(path)
