"""Certificates for the tests, made by openssl(1), in directories as qemu, nbdkit and libnbd lay them out."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Authority", "Pki", "key_file", "made"]

_KEY = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
_OTHER_KEY = "ff" * 32

_CURVE = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


def _openssl(*arguments: object) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


class Authority:
    """A certificate authority with files of its own; it signs servers and clients."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        folder.mkdir()
        self.certificate, self.key = folder / "ca-cert.pem", folder / "ca-key.pem"
        _openssl("req", "-x509", *_CURVE, "-days", 30, "-subj", f"/CN={name}", "-addext", "keyUsage=keyCertSign",
                 "-keyout", self.key, "-out", self.certificate)  # fmt: skip

    def sign(self, directory: Path, role: str, *, names: str = "DNS:localhost,IP:127.0.0.1", days: int = 30) -> Path:
        """Put ca-cert.pem, ROLE-cert.pem and ROLE-key.pem into the directory; `days` below 0: expired already."""
        directory.mkdir(exist_ok=True)
        shutil.copy(self.certificate, directory / "ca-cert.pem")
        request, more = self.folder / "request", self.folder / "more"
        more.write_text(f"subjectAltName={names}\nextendedKeyUsage={role}Auth\nkeyUsage=digitalSignature\n")
        _openssl("req", "-new", *_CURVE, "-subj", f"/CN={role}", "-keyout", directory / f"{role}-key.pem",
                 "-out", request)  # fmt: skip
        _openssl("x509", "-req", "-in", request, "-CA", self.certificate, "-CAkey", self.key, "-CAcreateserial",
                 "-days", days, "-extfile", more, "-out", directory / f"{role}-cert.pem")  # fmt: skip
        return directory


def key_file(path: Path, **keys: str) -> Path:
    """A file of pre-shared keys: `username:hexkey` lines."""
    path.write_text("".join(f"{user}:{key}\n" for user, key in keys.items()))
    path.chmod(0o600)
    return path


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
    keys: Path  # named keys.psk, as qemu wants it, and alone in its directory
    wrong_keys: Path


def made(root: Path) -> Pki:
    """Everything that the tests of TLS want to have, below `root`."""
    authority, other = Authority(root / "ca", "the authority"), Authority(root / "other", "a stranger")
    trusting, keys = root / "trusting", root / "keys"
    trusting.mkdir()
    keys.mkdir()
    shutil.copy(authority.certificate, trusting / "ca-cert.pem")
    return Pki(
        authority,
        server=authority.sign(root / "server", "server"),
        client=authority.sign(root / "client", "client"),
        stranger=other.sign(root / "stranger", "client"),
        trusting=trusting,
        expired=authority.sign(root / "expired", "server", days=-1),
        elsewhere=authority.sign(root / "elsewhere", "server", names="DNS:elsewhere.example"),
        keys=key_file(keys / "keys.psk", alice=_KEY),
        wrong_keys=key_file(root / "wrong.psk", alice=_OTHER_KEY, bob=_KEY),
    )
