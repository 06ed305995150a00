"""The transmission phase of one connection without I/O: requests in and bytes out, bytes in and answers out.

The blocking client and the asyncio client are thin loops around the same `Session`. To send, they take `outgoing()`
and say with `sent()` how much of it went; to receive, they fill `buffer()` and say with `received()` how many bytes
came, which gives the requests that are answered. Payload goes straight from the socket to its place: `buffer()` is
that place while a long payload is due, and a buffer for many headers at once otherwise.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from itertools import islice
from typing import NoReturn

from omavol.nbd.answers import Answer, DataAnswer, StatusAnswer
from omavol.nbd.errors import Breach, Disconnected, NbdError, ServerShutsDown
from omavol.nbd.handshake import Export
from omavol.nbd.requests import check
from omavol.nbd.wire import REPLY_SIZES, Command, CommandFlag, Form, Reply, Request, parse_reply

__all__ = ["Flight", "Session"]

_BULK = 32 * 1024  # bytes taken at once where headers are due; payload of at least that goes to its place directly
_PLAIN = CommandFlag(0)
_PARTS = 16  # views that one sendmsg is given


class Flight:
    """One request under way: its answer as it comes in, and how many of its bytes are not sent yet."""

    __slots__ = ("answer", "error", "request", "unsent")

    def __init__(self, answer: Answer, unsent: int) -> None:
        self.answer = answer
        self.request = answer.request
        self.unsent = unsent
        self.error: NbdError | None = None  # what ended the connection before the answer came

    @property
    def failure(self) -> NbdError | None:
        """Why it failed, once it has ended; None: it was answered well."""
        return self.error or self.answer.failure


class Session:
    """The state of a negotiated connection: what is in flight, what is to be sent, what is received.

    One thread or task at a time. A method that raises Breach leaves the session to `fail()` alone.
    """

    def __init__(self, export: Export, place: str) -> None:
        self.export = export
        self.place = place
        self.closed: str | None = None  # why nothing more may be asked
        self._about = f"{place}: export {export.name!r}"
        self._cookie = 0
        self._flights: dict[int, Flight] = {}  # in the order of asking
        self._out: deque[tuple[memoryview, Flight | None]] = deque()
        self._bulk = memoryview(bytearray(_BULK))
        self._finished: list[Flight] = []
        self._replies = self._parse()
        self._wanted = next(self._replies)
        self._direct = False

    @property
    def in_flight(self) -> int:
        """How many requests wait for their answers."""
        return len(self._flights)

    @property
    def oldest(self) -> Flight | None:
        """The request that waits longest."""
        return next(iter(self._flights.values()), None)

    def flights(self) -> Iterator[Flight]:
        """What waits for an answer, in the order of asking."""
        return iter(tuple(self._flights.values()))

    def check(self, command: Command, offset: int, length: int, flags: CommandFlag = _PLAIN) -> None:
        """Raise what `begin` would raise, for a whole range that goes in several requests."""
        if self.closed is not None:
            raise Disconnected(self.closed)
        check(command, offset, length, flags, self.export, self.place)

    def begin(
        self,
        command: Command,
        offset: int = 0,
        length: int = 0,
        flags: CommandFlag = _PLAIN,
        *,
        payload: memoryview | None = None,
        into: memoryview | None = None,
    ) -> Flight:
        """Queue one request; NotOffered, NotAllowed, or why the session is over.

        `payload` (of a WRITE) must stay as it is until it is sent; `into` (of a READ) is filled while the answer comes.
        """
        self.check(command, offset, length, flags)
        self._cookie += 1
        request = Request(flags, command, self._cookie, offset, length)
        if command == Command.READ:
            assert into is not None, "a READ needs a place"
            answer: Answer = DataAnswer(request, self.export, self._about, into)
        elif command == Command.BLOCK_STATUS:
            answer = StatusAnswer(request, self.export, self._about)
        else:
            answer = Answer(request, self.export, self._about)
        header = memoryview(request.encode(self.export.extended))
        flight = Flight(answer, len(header) + (len(payload) if payload is not None else 0))
        self._flights[self._cookie] = flight
        self._out.append((header, flight))
        if payload is not None:
            self._out.append((payload, flight))
        return flight

    def leave(self) -> None:
        """Queue DISC, with nothing in it, behind which nothing goes (C8, C9, C10); nothing may be in flight."""
        assert not self._flights, "DISC with requests in flight"
        self._out.append(
            (memoryview(Request(0, Command.DISC, self._cookie + 1, 0, 0).encode(self.export.extended)), None)
        )
        self.close()

    def close(self, why: str = "this connection is closed") -> None:
        """Take no more requests; those in flight go on."""
        if self.closed is None:
            self.closed = f"{self.place}: {why}"

    def fail(self, why: NbdError) -> list[Flight]:
        """The connection is gone: everything in flight fails with the cause (C22). Gives all that has ended now."""
        self.close(f"this connection is closed, after: {str(why).removeprefix(f'{self.place}: ')}")
        for flight in self._flights.values():
            flight.error = why
        ended = [*self._finished, *self._flights.values()]
        self._finished = []
        self._flights.clear()
        self._out.clear()
        return ended

    # -- sending

    @property
    def wants_to_send(self) -> bool:
        """Whether something is queued."""
        return bool(self._out)

    def outgoing(self) -> list[memoryview]:
        """The next views to be sent, in order; none: all is sent."""
        return [view for view, _ in islice(self._out, _PARTS)]

    def sent(self, count: int) -> None:
        """Note that so many bytes of `outgoing()` went."""
        while count:
            view, flight = self._out.popleft()
            went = min(count, len(view))
            count -= went
            if flight is not None:
                flight.unsent -= went
            if went < len(view):
                self._out.appendleft((view[went:], flight))

    def keep_payload(self, flight: Flight) -> None:
        """Copy what is still to be sent of a request whose caller is going away and may change its data."""
        self._out = deque((memoryview(bytes(view)) if owner is flight else view, owner) for view, owner in self._out)

    # -- receiving

    def buffer(self) -> memoryview:
        """Where the next bytes of the connection go; never empty."""
        self._direct = len(self._wanted) >= _BULK
        return self._wanted if self._direct else self._bulk

    def received(self, count: int) -> list[Flight]:
        """Take the first `count` bytes of `buffer()`; the requests whose answers are complete now. Breach ends it."""
        if self._direct:
            self._fill(count)
        else:
            rest = self._bulk[:count]
            while rest:
                took = min(len(rest), len(self._wanted))
                self._wanted[:took] = rest[:took]
                self._fill(took)
                rest = rest[took:]
        finished, self._finished = self._finished, []
        return finished

    def _fill(self, count: int) -> None:
        """The first bytes of what is wanted are in place; go on with what is wanted next."""
        self._wanted = self._wanted[count:]
        while not self._wanted:
            self._wanted = next(self._replies)

    def _parse(self) -> Generator[memoryview, None, NoReturn]:
        """Reply after reply, for ever: each header goes to the answer of the request that its cookie names."""
        head = bytearray(64)
        while True:
            reply = yield from self._header(memoryview(head))
            flight = self._flights.get(reply.cookie)
            if flight is None:
                raise self._breach("answered a request that was not made (wrong cookie)")
            if not (yield from flight.answer.take(reply)):
                continue
            if flight.unsent and flight.answer.failure is None:
                raise self._breach("answered a request before it had all of it")
            del self._flights[reply.cookie]
            self._finished.append(flight)
            if isinstance(flight.answer.failure, ServerShutsDown):  # a soft disconnect: what is in flight goes on (C6)
                self.close("the server is shutting down")

    def _header(self, head: memoryview) -> Generator[memoryview, None, Reply]:
        """One reply header, as long as its magic says."""
        form = self.export.form
        have, need = 0, REPLY_SIZES[Form.EXTENDED if form == Form.EXTENDED else Form.SIMPLE]
        while True:
            yield head[have:need]
            have = need
            try:
                reply = parse_reply(bytes(head[:have]), form)
            except ValueError as error:
                raise self._breach("sent what is no reply (wrong magic)") from error
            if reply is not None:
                return reply
            need = REPLY_SIZES[form]

    def _breach(self, what: str) -> Breach:
        return Breach(f"{self._about}: the server {what}")
