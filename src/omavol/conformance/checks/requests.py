"""Requests and replies as such: cookies, which form a reply has, FUA and CACHE, length 0, many at once."""

from __future__ import annotations

from omavol import _wire
from omavol.conformance.facts import Need
from omavol.conformance.server import Server
from omavol.conformance.session import Reply, Session
from omavol.conformance.table import Group, Tag, check
from omavol.conformance.verdict import Failed
from omavol.nbd.wire import Chunk as Kind
from omavol.nbd.wire import Command, CommandFlag, Error
from omavol.nbd.wire import TransmissionFlag as Flag

_TRANSMISSION = "Transmission"
_SIMPLE = "Simple reply message"
_CHUNKS = "Structured reply chunk message"
_FUA = "Command flags: NBD_CMD_FLAG_FUA"


@check("X1", Tag.MUST, Group.REQUESTS, _TRANSMISSION, "Any cookie comes back as it was sent", Need.DATA)
def cookies(server: Server) -> None:
    for structured in (False, True):
        session = server.enter(structured=structured)
        for cookie in (0, (1 << 64) - 1, 1 << 63, 0x2560951325609513, 0):
            session.ask(Command.READ, 0, session.unit, cookie=cookie).must("READ", 0)


@check(
    "X1", Tag.MUST, Group.REQUESTS, _TRANSMISSION, "Many requests in flight are answered, each by its cookie", Need.DATA
)
def many_in_flight(server: Server) -> None:
    session = server.enter()
    unit = session.unit
    places = [unit * (number % max(session.told.size // unit, 1)) for number in range(64)]
    expected = {place: session.read(place, unit) for place in sorted(set(places))}
    asked = {session.request(Command.READ, place, unit): place for place in places}
    replies = session.hear(dict.fromkeys(asked, (Command.READ, unit)))
    for cookie, place in asked.items():
        data = session.assemble(replies[cookie], place, unit)
        if data != expected[place]:
            raise Failed(f"the data of offset {place} for cookie {cookie:#x}", "other data", data[:64])


@check("X2", Tag.MUST, Group.REQUESTS, _SIMPLE, "Nothing negotiated: every reply is simple", Need.DATA)
def simple_replies(server: Server) -> None:
    session = server.enter(structured=False)
    replies = [session.ask(Command.READ, 0, session.unit)]
    if session.told.flags & Flag.SEND_FLUSH:
        replies.append(session.ask(Command.FLUSH))
    replies.append(session.ask(Command.READ, session.told.size, session.unit))
    for reply in replies:
        if not reply.simple:
            raise Failed("a simple reply", "a chunk", session.link.came)


@check("X3", Tag.MUST, Group.REQUESTS, _CHUNKS, "Structured: READ is answered by chunks", Need.STRUCTURED, Need.DATA)
def reads_in_chunks(server: Server) -> None:
    session = server.enter()
    _in_chunks(session, session.ask(Command.READ, 0, session.unit))


@check(
    "X3", Tag.MUST, Group.REQUESTS, _CHUNKS, "Structured: a READ that fails at once is answered by chunks, too",
    Need.STRUCTURED, Need.DATA,
)  # fmt: skip
def early_errors_in_chunks(server: Server) -> None:
    session = server.enter()
    _in_chunks(session, session.ask(Command.READ, session.told.size, session.unit).must_fail("READ past the end"))


def _in_chunks(session: Session, reply: Reply) -> None:
    if reply.simple:
        raise Failed("a structured reply to NBD_CMD_READ", "a simple one", session.link.came)


@check(
    "X4", Tag.SHOULD, Group.REQUESTS, _CHUNKS, "Structured: errors of other commands are error chunks", Need.STRUCTURED
)
def errors_as_chunks(server: Server) -> None:
    session = server.enter()
    if session.ask(0x7E57).must_fail("an unknown command").simple:
        raise Failed("an error chunk", "a simple reply", session.link.came)


@check(
    "X6",
    Tag.MUST,
    Group.REQUESTS,
    "Terminating the transmission phase",
    "Whatever is offered may be asked in a row without a disconnect",
    Need.DATA,
)
def nothing_offered_disconnects(server: Server) -> None:
    contexts = ("base:allocation",) if "base:allocation" in server.facts.contexts else ()
    session = server.enter(contexts=contexts)
    for _ in range(3):
        for flag, command, length in (
            (Flag.HAS_FLAGS, Command.READ, session.unit),
            (Flag.SEND_FLUSH, Command.FLUSH, 0),
            (Flag.SEND_CACHE, Command.CACHE, session.unit),
        ):
            if session.told.flags & flag:
                session.ask(command, 0, length)
        if contexts:
            session.ask(Command.BLOCK_STATUS, 0, session.unit)
    session.still_answers()


@check("X12", Tag.MUST, Group.REQUESTS, _FUA, "FUA is accepted on READ, FLUSH, CACHE and BLOCK_STATUS", Need.FUA)
def fua_on_what_does_not_write(server: Server) -> None:
    contexts = ("base:allocation",) if "base:allocation" in server.facts.contexts else ()
    session = server.enter(contexts=contexts)
    unit = session.unit
    asked = [(Command.READ, unit)] if unit else []
    asked += [(Command.FLUSH, 0)] if session.told.flags & Flag.SEND_FLUSH else []
    asked += [(Command.BLOCK_STATUS, unit)] if contexts and unit else []
    if session.told.flags & Flag.SEND_CACHE and unit and not session.ask(Command.CACHE, 0, unit).error:
        asked.append((Command.CACHE, unit))
    for command, length in asked:
        reply = session.ask(command, 0, length, flags=CommandFlag.FUA)
        reply.must(f"NBD_CMD_{command.name} with NBD_CMD_FLAG_FUA", 0)


@check(
    "X12", Tag.MUST, Group.REQUESTS, _FUA, "FUA is accepted on WRITE, WRITE_ZEROES and TRIM",
    Need.WRITE, Need.FUA, Need.DATA,
)  # fmt: skip
def fua_on_what_writes(server: Server) -> None:
    session = server.enter()
    unit = max(session.told.minimum, 4096)
    session.write(server.scratch, b"\xa5" * unit, flags=CommandFlag.FUA)
    for flag, command in ((Flag.SEND_WRITE_ZEROES, Command.WRITE_ZEROES), (Flag.SEND_TRIM, Command.TRIM)):
        if session.told.flags & flag:
            reply = session.ask(command, server.scratch, unit, flags=CommandFlag.FUA)
            reply.must(f"NBD_CMD_{command.name} with NBD_CMD_FLAG_FUA", 0)


@check(
    "X13",
    Tag.MUST,
    Group.REQUESTS,
    "Request types: NBD_CMD_CACHE",
    "CACHE, being offered, refuses flags it does not know",
    Need.CACHE,
    Need.DATA,
    hostile=True,
)
def cache_with_unknown_flag(server: Server) -> None:
    session = server.enter()
    session.ask(Command.CACHE, 0, session.unit, flags=1 << 14).must_fail("NBD_CMD_CACHE with flag bit 14")


@check("X19", Tag.SHOULD, Group.REQUESTS, "Request types", "A length of 0 does not disconnect", Need.DATA, hostile=True)
def length_zero(server: Server) -> None:
    contexts = ("base:allocation",) if "base:allocation" in server.facts.contexts else ()
    commands = [Command.READ, *([Command.BLOCK_STATUS] if contexts else [])]
    for structured in {False, server.facts.structured}:
        for command in commands if structured else commands[:1]:
            session = server.enter(structured=structured, contexts=contexts if structured else ())
            session.ask(command, 0, 0)
            session.still_answers()


@check(
    "X19", Tag.SHOULD, Group.REQUESTS, "Request types", "Nor does it for WRITE, WRITE_ZEROES and TRIM",
    Need.WRITE, Need.DATA, hostile=True,
)  # fmt: skip
def length_zero_of_what_writes(server: Server) -> None:
    session = server.enter()
    for flag, command in (
        (Flag.HAS_FLAGS, Command.WRITE),
        (Flag.SEND_WRITE_ZEROES, Command.WRITE_ZEROES),
        (Flag.SEND_TRIM, Command.TRIM),
    ):
        if session.told.flags & flag:
            session.ask(command, server.scratch, 0)
            session.still_answers()


@check(
    "X30",
    Tag.MUST,
    Group.REQUESTS,
    "Structured reply types: NBD_REPLY_TYPE_ERROR",
    "An error chunk has an error that is not 0, and a message that fits and is a string",
    Need.STRUCTURED,
    Need.DATA,
)
def error_chunks(server: Server) -> None:
    session = server.enter()
    for command, offset in ((Command.READ, session.told.size), (0x7E57, 0)):
        reply = session.ask(command, offset, session.unit).must_fail("a request that cannot be served")
        for chunk in reply.chunks:
            if chunk.is_error and chunk.error:
                length = int.from_bytes(chunk.payload[4:6])
                _a_string(chunk.payload[6 : 6 + length])


def _a_string(text: bytes) -> None:
    if not _wire.is_string(text):
        raise Failed("a message that is a string", f"{len(text)} other bytes", text)


@check(
    "X31",
    Tag.MUST,
    Group.REQUESTS,
    "Structured reply flags",
    "DONE ends the reply, NONE always has it; no other flag is set",
    Need.STRUCTURED,
    Need.DATA,
)
def done_ends_the_reply(server: Server) -> None:
    session = server.enter()
    asked = {}
    for length in (session.unit, min(session.told.size, 1 << 20)):
        asked[session.request(Command.READ, 0, length)] = (Command.READ, length)
    for cookie, reply in session.hear(asked).items():
        if any(chunk.flags & ~1 for chunk in reply.chunks):
            raise Failed("no flag but NBD_REPLY_FLAG_DONE", f"{[chunk.flags for chunk in reply.chunks]}")
        if [chunk for chunk in reply.chunks[:-1] if chunk.done or chunk.type == Kind.NONE]:
            raise Failed(f"DONE on the last chunk of {cookie:#x} alone", "on an earlier one")
    session.still_answers()


@check(
    "X57",
    Tag.SHOULD,
    Group.REQUESTS,
    "Error values",
    "ENOMEM is avoided, EOVERFLOW and ENOTSUP come only where they are documented",
    Need.DATA,
)
def errors_are_documented(server: Server) -> None:
    session = server.enter()
    for what, reply in (
        ("an unknown command", session.ask(0x7E57)),
        ("READ past the end", session.ask(Command.READ, session.told.size, session.unit)),
        ("READ with an unknown flag", session.ask(Command.READ, 0, session.unit, flags=1 << 13)),
    ):
        if reply.error in (Error.ENOMEM, Error.EOVERFLOW, Error.ENOTSUP):
            raise Failed(f"another error for {what}", reply.name, session.link.came)
