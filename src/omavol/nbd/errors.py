"""What can go wrong between us and an NBD server: types with a stable code, the facts, and what to do next."""

from __future__ import annotations

__all__ = [
    "BadUri",
    "Breach",
    "ConnectFailed",
    "Disconnected",
    "Downgraded",
    "NbdError",
    "NotAllowed",
    "NotFixed",
    "NotOffered",
    "Refused",
    "RequestFailed",
    "ServerShutsDown",
    "TimedOut",
    "TlsUnavailable",
    "UnknownExport",
]


class NbdError(Exception):
    """One line for a person in `str()`, a `code` for programs, `advice` when there is a next step."""

    code = "nbd"

    def __init__(self, message: str, advice: str | None = None) -> None:
        super().__init__(message)
        self.advice = advice


class BadUri(NbdError):
    """The text is no NBD URI that we serve."""

    code = "nbd.uri"


class TlsUnavailable(NbdError):
    """TLS was demanded and cannot be had: its files, its handshake, or the peer's certificate (T21)."""

    code = "nbd.tls"


class ConnectFailed(NbdError):
    """No connection to the server's address; `errno` is the system's reason where there is one."""

    code = "nbd.connect"

    def __init__(self, message: str, advice: str | None = None, errno: int | None = None) -> None:
        super().__init__(message, advice)
        self.errno = errno


class TimedOut(NbdError):
    """The server did not answer within the limit (C25)."""

    code = "nbd.timeout"


class Disconnected(NbdError):
    """The server closed the connection where it owed an answer."""

    code = "nbd.disconnected"


class Breach(NbdError):
    """The server broke the protocol; the connection is closed and nothing it said counts (C1, C22)."""

    code = "nbd.breach"


class NotFixed(NbdError):
    """The server speaks no fixed newstyle handshake: its export can be entered, nothing else can be asked."""

    code = "nbd.not-fixed"


class Downgraded(NbdError):
    """The server does not offer what was demanded (C27)."""

    code = "nbd.downgraded"


class Refused(NbdError):
    """The server answered an option by an error; `error` is its number (wire.OptionError)."""

    code = "nbd.refused"

    def __init__(self, message: str, error: int, advice: str | None = None) -> None:
        super().__init__(message, advice)
        self.error = error


class UnknownExport(Refused):
    """The server has no export of that name."""

    code = "nbd.unknown-export"


class NotOffered(NbdError):
    """The command or flag was not advertised by the server, so it is not sent (C14)."""

    code = "nbd.not-offered"


class NotAllowed(NbdError):
    """The request would leave the export or break its block sizes, so it is not sent (C15, C16)."""

    code = "nbd.not-allowed"


class RequestFailed(NbdError):
    """The server answered a request by an error; `error` is its number (wire.Error), `offset` where, if it said."""

    code = "nbd.request"

    def __init__(self, message: str, error: int, offset: int | None = None) -> None:
        super().__init__(message)
        self.error = error
        self.offset = offset


class ServerShutsDown(RequestFailed):
    """The server shuts down: nothing more is asked on this connection (C6)."""

    code = "nbd.shutdown"
