"""Certificates for the tests, made by openssl(1), in directories as qemu, nbdkit and libnbd lay them out."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

__all__ = ["Authority", "key_file"]

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
