"""TLS of the server: which files, whether they can be used, and when they are taken anew.

Files are those of the users of qemu, nbdkit and libnbd: a directory with server-cert.pem, server-key.pem and, where
clients have to show a certificate, ca-cert.pem; or a file of `username:hexkey` lines. Certificates that are replaced
while the server runs are what the next client gets (OpenSSL's context is made anew when the files' times change); keys
shared beforehand are read for each client.
"""

from __future__ import annotations

import stat
import sys
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from omavol._channel import TlsCredentials
from omavol.serve.errors import TlsUnusable

__all__ = ["Mode", "Tls"]

_SOON = 7 * 24 * 3600  # seconds


class Mode(StrEnum):
    """Whether clients may, or have to, use TLS."""

    OFF = "off"
    ON = "on"
    REQUIRE = "require"


@dataclass(frozen=True)
class Tls:
    """What was asked for; `load` checks it and gives what the table takes."""

    mode: Mode = Mode.OFF
    certificates: str | None = None
    psk: str | None = None
    verify_client: bool = False

    def load(self) -> TlsCredentials | None:
        """Credentials, or None where TLS is off; TlsUnusable in one line. Warnings go to standard error."""
        if self.mode == Mode.OFF:
            if self.certificates or self.psk or self.verify_client:
                raise TlsUnusable("TLS files are given, and TLS is off", "Add --tls require, or --tls on.")
            return None
        if not self.certificates and not self.psk:
            raise TlsUnusable(f"--tls {self.mode} needs credentials", "Give --tls-certificates DIR or --tls-psk FILE.")
        if self.verify_client and not self.certificates:
            raise TlsUnusable("clients' certificates cannot be verified without --tls-certificates")
        directory = Path(self.certificates) if self.certificates else None
        for path in self._files(directory):
            _readable(path)
        credentials = TlsCredentials(
            serving=True,
            ca=directory / "ca-cert.pem" if directory and self.verify_client else None,
            certificate=directory / "server-cert.pem" if directory else None,
            key=directory / "server-key.pem" if directory else None,
            psk=self.psk,
            verify=self.verify_client,
        )
        if text := credentials.load():
            raise TlsUnusable(_explained(text))
        if directory:
            _check_time(credentials, directory / "server-cert.pem")
            _check_secret(directory / "server-key.pem")
        if self.psk:
            _check_keys(Path(self.psk))
            _check_secret(Path(self.psk))
        return credentials

    def _files(self, directory: Path | None) -> list[Path]:
        found = [] if directory is None else [directory / "server-cert.pem", directory / "server-key.pem"]
        if directory and self.verify_client:
            found.append(directory / "ca-cert.pem")
        return [*found, Path(self.psk)] if self.psk else found


def _readable(path: Path) -> None:
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise TlsUnusable(f"cannot read {path}: {error.strerror}") from error


def _explained(text: str) -> str:
    """OpenSSL's reason, in words where its own are none.

    >>> _explained("/pki/server-key.pem: key values mismatch")
    '/pki/server-key.pem: this key does not belong to the certificate'
    """
    path, _, reason = text.rpartition(": ")
    known = {
        "key values mismatch": "this key does not belong to the certificate",
        "key type mismatch": "this key does not belong to the certificate",
        "no start line": "there is no PEM in it",
    }
    return f"{path}: {known.get(reason, reason)}"


def _check_time(credentials: TlsCredentials, certificate: Path) -> None:
    """A certificate that is over is refused, one that will be soon is said."""
    lived, left = credentials.lifetime() or (0, _SOON)
    if left <= 0:
        raise TlsUnusable(f"{certificate} has expired {-left // 86400} days ago", "Have a new one signed.")
    if lived < 0:
        raise TlsUnusable(f"{certificate} is not valid yet", "Is the clock of this host right?")
    if left < _SOON:
        print(f"omavol serve: {certificate} expires in {left // 86400} days", file=sys.stderr)


def _check_secret(path: Path) -> None:
    if path.stat().st_mode & (stat.S_IROTH | stat.S_IWOTH):
        print(f"omavol serve: {path} can be read by everybody; chmod o= it", file=sys.stderr)


def _check_keys(path: Path) -> None:
    """At least one line that means something."""
    for line in path.read_text(errors="replace").splitlines():
        user, colon, key = line.partition(":")
        try:
            if user and colon and bytes.fromhex(key):
                return
        except ValueError:
            continue
    raise TlsUnusable(f"{path} has no line username:hexkey", "psktool(1) makes one.")
