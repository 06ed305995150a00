"""One negotiated connection on an event loop: many requests in flight, each a future; the loop around `Session`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection

from omavol.nbd.errors import Disconnected, NbdError, TimedOut
from omavol.nbd.handshake import Export
from omavol.nbd.session import Flight, Session
from omavol.nbd.transport import Transport
from omavol.nbd.wire import Command, CommandFlag

__all__ = ["Line"]

_TURNS = 16  # receives in a row, then other tasks have their turn
_PLAIN = CommandFlag(0)


class Line:
    """A connection that an event loop reads and writes. Everything here runs in the loop's thread.

    `ended` is called once, with the cause, when the connection is over before it was left. No wait is without a limit
    (C25): when the request that waits longest has waited `timeout` seconds since it became that, the connection ends.
    """

    def __init__(self, transport: Transport, export: Export, in_flight: int, ended: Callable[[NbdError], None]) -> None:
        self.session = Session(export, transport.place)
        self._transport: Transport | None = transport
        self._fd = transport.socket.fileno()
        self._timeout = transport.timeout
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        self._room = asyncio.Semaphore(in_flight)
        self._futures: dict[int, asyncio.Future[Flight]] = {}
        self._gone = self._loop.create_future()
        self._writing = self._write_due = self._left = False
        self._watched: Flight | None = None
        self._watched_since = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._loop.add_reader(self._fd, self._read)

    @property
    def load(self) -> int:
        """Requests in flight."""
        return self.session.in_flight

    async def begin(
        self,
        command: Command,
        offset: int = 0,
        length: int = 0,
        flags: CommandFlag = _PLAIN,
        *,
        payload: memoryview | None = None,
        into: memoryview | None = None,
    ) -> asyncio.Future[Flight]:
        """Queue a request when there is room for one more; the future is done when it has ended, well or not.

        The future is the line's: who awaits it shields it, so that a caller that is cancelled changes nothing here.
        """
        await self._room.acquire()
        try:
            flight = self.session.begin(command, offset, length, flags, payload=payload, into=into)
        except BaseException:
            self._room.release()
            raise
        future: asyncio.Future[Flight] = self._loop.create_future()
        self._futures[flight.request.cookie] = future
        if not (self._writing or self._write_due):  # requests that are begun together are sent together
            self._write_due = True
            self._loop.call_soon(self._write)
        self._watch()
        return future

    def changes(self) -> list[asyncio.Future[Flight]]:
        """What is in flight and changes the export: a FLUSH that shall cover it has to wait for it (C11)."""
        return [
            self._futures[flight.request.cookie]
            for flight in self.session.flights()
            if flight.request.type in (Command.WRITE, Command.WRITE_ZEROES, Command.TRIM)
        ]

    def keep_payloads(self, abandoned: Collection[asyncio.Future[Flight]]) -> None:
        """A caller goes away and may change its data: copy what is not sent yet of its requests."""
        for flight in self.session.flights():
            if flight.unsent and self._futures[flight.request.cookie] in abandoned:
                self.session.keep_payload(flight)

    async def close(self) -> None:
        """Take no more requests, wait for those in flight, leave by DISC (C7 to C9). Never raises for the server."""
        self.session.close()
        self._leave_if_idle()
        try:
            await asyncio.shield(self._gone)
        except asyncio.CancelledError:
            self.end(Disconnected(f"{self.session.place}: closed in a hurry"))
            raise

    def end(self, why: NbdError) -> None:
        """End without a word (C1): everything in flight fails with the cause."""
        if self._transport is None:
            return
        self._shut()
        for flight in self.session.fail(why):
            self._resolve(flight)
        self._ended(why)

    def _shut(self) -> None:
        assert self._transport is not None
        transport, self._transport = self._transport, None
        self._loop.remove_reader(self._fd)
        self._loop.remove_writer(self._fd)
        if self._timer is not None:
            self._timer.cancel()
        transport.close()
        if not self._gone.done():
            self._gone.set_result(None)

    def _read(self) -> None:
        """Take what the socket has, a bounded share of it."""
        for _ in range(_TURNS):
            if self._transport is None:
                return
            try:
                count = self._transport.receive_now(self.session.buffer())
                self._note_what_went(self._transport)
                for flight in self.session.received(count):
                    self._resolve(flight)
            except BlockingIOError:
                break
            except NbdError as error:
                self.end(error)
                return
        else:
            self._loop.call_soon(self._read)  # TLS may hold decrypted bytes that the poll does not know of
        self._watch()
        self._leave_if_idle()

    def _write(self) -> None:
        """Send what is queued, as far as the socket takes it."""
        self._write_due = False
        if self._transport is None:
            return
        try:
            while self.session.wants_to_send:
                self.session.sent(self._transport.send_now(self.session.outgoing()))
        except BlockingIOError:
            if not self._writing:
                self._writing = True
                self._loop.add_writer(self._fd, self._write)
            return
        except NbdError as error:
            self._read()  # before it went, it may have said why
            self.end(error)
            return
        if self._writing:
            self._writing = False
            self._loop.remove_writer(self._fd)

    def _note_what_went(self, transport: Transport) -> None:
        """Receiving sends what TLS holds back: a request is known to be sent before the answer to it is looked at."""
        if not self._writing or not self.session.wants_to_send or transport.channel is None:
            return
        with contextlib.suppress(BlockingIOError, NbdError):  # a failure is met again by who sends next
            self.session.sent(transport.send_now(self.session.outgoing()))

    def _resolve(self, flight: Flight) -> None:
        self._room.release()
        self._futures.pop(flight.request.cookie).set_result(flight)

    def _leave_if_idle(self) -> None:
        """Once nothing more may be asked (closed here, or ESHUTDOWN from there) and all is answered, leave."""
        if self._left or self.session.closed is None or self.session.in_flight:
            return
        self._left = True
        self.session.leave()
        self._write()
        if self._transport is not None:  # a full socket with nothing in flight: it may miss its DISC
            self._shut()

    def _watch(self) -> None:
        """Note which request waits longest, and since when."""
        oldest = self.session.oldest
        if oldest is self._watched:
            return
        self._watched, self._watched_since = oldest, self._loop.time()
        if self._timer is None and oldest is not None:
            self._timer = self._loop.call_later(self._timeout, self._tick)

    def _tick(self) -> None:
        self._timer = None
        if self._watched is None or self._transport is None:
            return
        left = self._watched_since + self._timeout - self._loop.time()
        if left > 0:
            self._timer = self._loop.call_later(left, self._tick)
        else:
            self.end(TimedOut(f"{self.session.place}: waited too long for an answer"))
