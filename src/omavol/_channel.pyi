"""Moves bytes over a connected socket, plain or TLS; from Python only TLS's credentials and a client's end of it."""

import os

from typing_extensions import Buffer

class TlsFailed(Exception):
    """The TLS handshake failed, or a session ended that may not; `str()` is OpenSSL's reason."""

class TlsCredentials:
    """The files of one end of TLS; see channel/faces.pxi."""

    def __init__(
        self,
        *,
        serving: bool,
        ca: str | os.PathLike[str] | None = None,
        certificate: str | os.PathLike[str] | None = None,
        key: str | os.PathLike[str] | None = None,
        psk: str | os.PathLike[str] | None = None,
        user: str = "",
        verify: bool = False,
        usual_trust: bool = False,
        newest: str = "",
    ) -> None: ...
    def load(self) -> str | None: ...
    def lifetime(self) -> tuple[int, int] | None: ...

class SecureChannel:
    """A connected socket that speaks TLS; it owns the descriptor. One thread at a time; `timeout` is seconds."""

    def __init__(self, fd: int, credentials: TlsCredentials, host: str = "") -> None: ...
    def handshake(self, timeout: float) -> None: ...
    def send(self, data: Buffer, timeout: float) -> int: ...
    def receive_into(self, into: Buffer, timeout: float) -> int: ...
    def fileno(self) -> int: ...
    @property
    def protocol(self) -> str: ...
    @property
    def cipher(self) -> str: ...
    @property
    def in_kernel(self) -> bool: ...
    def close(self) -> None: ...
