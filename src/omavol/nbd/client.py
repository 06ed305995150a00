"""A blocking client for people, for `omavol info` and `map`, and for the copy engine's connections.

`connect(uri)` gives a negotiated Connection; `negotiate(uri)` stays in the handshake to ask what a server has.
Every wait has a limit: `timeout` seconds for the connect, for each question of the handshake, and for each request.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from omavol import _wire
from omavol.nbd.errors import Disconnected, Downgraded, NbdError, NotAllowed, Refused, UnknownExport
from omavol.nbd.handshake import Export, Fault, Goal, Listed, Next, Seen, Wish, breach, refusal
from omavol.nbd.transport import Transport
from omavol.nbd.uri import Uri, parse
from omavol.nbd.wire import DEFAULT_MAXIMUM, Option, TransmissionFlag

if TYPE_CHECKING:
    from omavol.nbd.connection import Connection

__all__ = ["ALLOCATION", "TIMEOUT", "Negotiation", "connect", "negotiate"]

ALLOCATION = "base:allocation"
TIMEOUT = 30.0  # seconds
_FAREWELL = 2.0  # seconds that leaving may take
_BUFFER = 16384  # bytes; HANDSHAKE_BUFFER
_TEXT_LIMIT = 16 * 1024 * 1024  # bytes of names and descriptions in the answers to one question


def connect(
    uri: Uri | str,
    *,
    timeout: float = TIMEOUT,
    structured: Wish = Wish.OFFERED,
    extended: Wish = Wish.OFFERED,
    contexts: Sequence[str] = (ALLOCATION,),
) -> Connection:
    """Connect to the export of a URI and enter it; `contexts` are selected where the server has them.

    `timeout` is seconds, for the connect, each question of the handshake and each request. `structured` and `extended`
    say how much structured replies and extended headers are wanted: what is DEMANDED and not offered is Downgraded
    (C27). Errors: BadUri, ConnectFailed, TimedOut, UnknownExport, Refused, Disconnected, Breach.
    """
    where = parse(uri) if isinstance(uri, str) else uri
    negotiation = negotiate(where, timeout=timeout, structured=structured, extended=extended, contexts=contexts)
    try:
        return negotiation.go(where.export)
    except BaseException:
        negotiation.close()
        raise


def negotiate(
    uri: Uri | str,
    *,
    timeout: float = TIMEOUT,
    structured: Wish = Wish.OFFERED,
    extended: Wish = Wish.OFFERED,
    contexts: Sequence[str] = (ALLOCATION,),
) -> Negotiation:
    """Connect to a server without entering an export; arguments and errors are those of `connect`."""
    where = parse(uri) if isinstance(uri, str) else uri
    machine = _machine(structured, extended, contexts, Wish.NEVER if where.tls is None else Wish.DEMANDED)
    return Negotiation(Transport.connect(where, timeout), where, machine)


def _machine(structured: Wish, extended: Wish, contexts: Sequence[str], tls: Wish) -> _wire.ClientMachine:
    if structured == Wish.NEVER and extended == Wish.OFFERED:
        extended = Wish.NEVER  # they bring replies in chunks with them
    try:
        return _wire.ClientMachine(structured, [name.encode() for name in contexts], extended=extended, tls=tls)
    except ValueError as error:
        raise NotAllowed(
            "a meta context is named by at most 4096 bytes of UTF-8, and at most 8 are selected"
        ) from error


# Options that are asked for by themselves, so a refusal is told only where they were demanded (C27).
_DEMANDED: dict[int, str] = {
    Option.STARTTLS: "TLS, which was",
    Option.STRUCTURED_REPLY: "structured replies, which were",
    Option.EXTENDED_HEADERS: "extended headers, which were",
}

_Sighting = tuple[Seen, str, str]  # what, its text, and what follows it


class Negotiation:
    """A session in the handshake: questions, and at the end `go` or `close`. One thread at a time."""

    def __init__(self, transport: Transport, uri: Uri, machine: _wire.ClientMachine) -> None:
        self.uri = uri
        self._transport: Transport | None = transport
        self._machine = machine
        self._pending = b""
        self._deadline = 0.0
        self._asking = False

    def __enter__(self) -> Negotiation:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def fixed(self) -> bool:
        """Whether the server speaks fixed newstyle; known after the first answer."""
        return self._machine.fixed

    @property
    def structured(self) -> bool:
        """Whether replies come in chunks, by structured replies or extended headers; known after the first answer."""
        return bool(self._machine.agreed["structured"])

    @property
    def extended(self) -> bool:
        """Whether extended headers are agreed; known after the first answer."""
        return bool(self._machine.agreed["extended"])

    @property
    def secured(self) -> bool:
        """Whether the session is inside TLS; known after the first answer."""
        return self._transport is not None and self._transport.channel is not None

    def exports(self) -> tuple[Listed, ...]:
        """Every export of the server, as far as it tells."""
        seen = self._ask(Goal.LIST, None)
        return tuple(Listed(name, more) for kind, name, more in seen if kind == Seen.EXPORT)

    def contexts(self, export: str) -> tuple[str, ...] | None:
        """The meta contexts an export has; None where the server cannot be asked."""
        try:
            seen = self._ask(Goal.CONTEXTS, export)
        except UnknownExport:
            raise
        except Refused:
            return None
        return tuple(name for kind, name, _ in seen if kind == Seen.CONTEXT)

    def info(self, export: str) -> Export:
        """What an export is, without entering it."""
        return self._export(export, self._ask(Goal.INFO, export))

    def go(self, export: str) -> Connection:
        """Enter an export; this session becomes the connection."""
        from omavol.nbd.connection import Connection  # the requests and answers, which a loop in C has of its own

        entered, transport = self.enter(export)
        return Connection(transport, self.uri.with_export(export), entered, self._machine.fixed)

    def enter(self, export: str) -> tuple[Export, Transport]:
        """Enter an export for a loop of the extension modules, which now owns the transport; this session is over."""
        seen = self._ask(Goal.GO, export)
        transport = self._open()
        entered = self._export(export, seen)
        if self._pending:
            raise self._broken(Fault.UNASKED, transport)
        self._transport = None
        return entered, transport

    def close(self) -> None:
        """Leave by ABORT where the server still listens (C7); never raises for what the server does meanwhile."""
        if self._transport is None:
            return
        transport = self._transport
        if not self._asking:
            with contextlib.suppress(NbdError):  # it is left either way
                self._ask(Goal.ABORT, None, min(_FAREWELL, transport.timeout))
        self._transport = None
        transport.close()

    def _open(self) -> Transport:
        if self._transport is None:
            raise Disconnected(f"{self.uri.place}: this session has ended")
        return self._transport

    def _ask(self, goal: Goal, export: str | None, timeout: float | None = None) -> list[_Sighting]:
        """Put one question and collect what is seen until its answer is complete."""
        transport = self._open()
        seen: list[_Sighting] = []
        room = _TEXT_LIMIT
        self._machine.ask(goal, (export or "").encode())
        self._deadline = transport.within(timeout)
        self._asking = True  # until the answer is complete: a session left in the middle cannot be asked
        while True:
            todo, used, out = self._machine.step(self._pending)
            self._pending = self._pending[used:]
            if out:
                transport.send(out, self._deadline)
            if todo == Next.MORE:
                self._pending += self._receive(transport, export)
            elif todo == Next.TLS:
                self._secure(transport)
            elif todo == Next.SEEN and self._machine.seen is not None:
                kind, text, more = self._machine.seen
                seen.append((Seen(kind), text.decode(), more.decode()))
                room -= len(text) + len(more)
                if room < 0:
                    raise self._broken(Fault.FLOOD, transport)
            elif todo == Next.CLOSE and goal != Goal.ABORT:
                raise self._broken(Fault(self._machine.fault), transport)
            elif todo != Next.SEND:
                self._asking = False
                if todo == Next.ANSWERED and self._machine.refused:
                    raise self._refused(transport.place, export)
                return seen

    def _secure(self, transport: Transport) -> None:
        """STARTTLS was acknowledged: nothing but TLS from here on, nothing that came before it counts (T20)."""
        if self._pending:
            raise self._broken(Fault.UNASKED, transport)
        transport.secure(self.uri, self._deadline)
        self._machine.secured()

    def _broken(self, fault: Fault, transport: Transport) -> NbdError:
        """The server broke the protocol: the connection ends without a word (C1)."""
        self._transport = None
        transport.close()
        return breach(fault, transport.place)

    def _receive(self, transport: Transport, export: str | None) -> bytes:
        try:
            return transport.receive(_BUFFER, self._deadline)
        except Disconnected:
            if self._machine.option == Option.EXPORT_NAME:  # which has no other way to refuse (H6)
                raise Disconnected(
                    f"{transport.place}: the server closed the connection when asked for export {export!r}",
                    "It may have no export of that name.",
                ) from None
            raise

    def _refused(self, place: str, export: str | None) -> NbdError:
        if (wish := _DEMANDED.get(self._machine.option)) is not None:
            return Downgraded(f"{place}: the server does not offer {wish} demanded")
        return refusal(self._machine.refused, (self._machine.message or b"").decode(), place, export)

    def _export(self, name: str, seen: list[_Sighting]) -> Export:
        size, flags, minimum, preferred, maximum = self._machine.facts
        texts = {kind: text for kind, text, _ in seen}
        return Export(
            name=name,
            size=size,
            flags=TransmissionFlag(flags),
            structured=self.structured,
            extended=self.extended,
            minimum=minimum or 1,
            preferred=preferred or 4096,
            maximum=maximum or DEFAULT_MAXIMUM,
            block_sizes_told=bool(minimum),
            canonical_name=texts.get(Seen.NAME),
            description=texts.get(Seen.DESCRIPTION),
            contexts=dict(self._machine.contexts),
        )
