"""What can go wrong when a server starts or its table changes: a code for programs, a line and advice for people."""

from __future__ import annotations

__all__ = [
    "AddressUnusable",
    "BadAddress",
    "ControlFailed",
    "ControlRefused",
    "ExportRefused",
    "ServeError",
    "TlsUnusable",
]


class ServeError(Exception):
    """One line in `str()`; `code` is stable; `advice` is the next step, or empty."""

    def __init__(self, code: str, detail: str, advice: str = "") -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.advice = advice


class BadAddress(ServeError):
    """An address that cannot be read."""

    def __init__(self, detail: str, advice: str = "") -> None:
        super().__init__("bad_address", detail, advice)


class AddressUnusable(ServeError):
    """An address that cannot be listened on: in use, no permission, no such directory."""

    def __init__(self, detail: str, advice: str = "") -> None:
        super().__init__("address_unusable", detail, advice)


class TlsUnusable(ServeError):
    """TLS cannot be had with these files."""

    def __init__(self, detail: str, advice: str = "") -> None:
        super().__init__("tls_unusable", detail, advice)


class ExportRefused(ServeError):
    """The table did not take, change or give up an export."""


class ControlRefused(ServeError):
    """The server answered a command on its control socket with no."""


class ControlFailed(ServeError):
    """There is no answer on the control socket; whether the command took effect is not known."""

    def __init__(self, detail: str, advice: str = "") -> None:
        super().__init__("control_failed", detail, advice)
