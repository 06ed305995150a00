"""What must be refused, with which error, and that the connection stays in step: nothing here changes the export."""

from __future__ import annotations

from omavol.conformance.facts import Need
from omavol.conformance.numbers import SURELY_NO_ATTACK
from omavol.conformance.server import Server
from omavol.conformance.table import Group, Tag, check
from omavol.conformance.verdict import Failed, Gone, NotOffered
from omavol.nbd.wire import Command, CommandFlag, Error
from omavol.nbd.wire import TransmissionFlag as Flag

_READ_ONLY = "Transmission flags: NBD_FLAG_READ_ONLY"
_ERRORS = "Error values"
_SIZES = "Size constraints"
_UNKNOWN_FLAG = 1 << 14


@check(
    "X5", Tag.HOUSE, Group.REFUSALS, "Request message", "A wrong request magic ends the connection",
    Need.DATA, hostile=True,
)  # fmt: skip
def wrong_magic(server: Server) -> None:
    session = server.enter()
    session.link.say(bytes(28))
    session.link.must_end("the end of the connection after a request without its magic")


@check("X7", Tag.MUST, Group.REFUSALS, _READ_ONLY, "A read-only export refuses WRITE", Need.READ_ONLY, Need.DATA)
def read_only_write(server: Server) -> None:
    session = server.enter()
    data = session.read(0, session.unit)  # what is there already: no harm is done if it is not refused
    session.ask(Command.WRITE, 0, len(data), data).must_fail("NBD_CMD_WRITE on a read-only export")


@check("X8", Tag.SHOULD, Group.REFUSALS, _ERRORS, "It does so with EPERM", Need.READ_ONLY, Need.DATA)
def read_only_error(server: Server) -> None:
    session = server.enter()
    data = session.read(0, session.unit)
    session.ask(Command.WRITE, 0, len(data), data).must("NBD_CMD_WRITE on a read-only export", Error.EPERM)


@check("X9", Tag.SHOULD, Group.REFUSALS, _ERRORS, "READ past the end: EINVAL", Need.DATA, hostile=True)
def read_past_the_end(server: Server) -> None:
    session = server.enter()
    unit = session.unit
    for offset, length in ((session.told.size, unit), (session.told.size - unit, 2 * unit), (1 << 62, unit)):
        session.ask(Command.READ, offset, length).must(f"READ of {offset}+{length}", Error.EINVAL)
    session.still_answers()


@check(
    "X9",
    Tag.SHOULD,
    Group.REFUSALS,
    _ERRORS,
    "BLOCK_STATUS past the end: EINVAL",
    Need.ALLOCATION,
    Need.DATA,
    hostile=True,
)
def status_past_the_end(server: Server) -> None:
    session = server.enter(contexts=("base:allocation",))
    reply = session.ask(Command.BLOCK_STATUS, session.told.size, session.unit)
    reply.must("BLOCK_STATUS past the end", Error.EINVAL)
    session.still_answers()


@check(
    "X9", Tag.SHOULD, Group.REFUSALS, _ERRORS, "WRITE past the end: ENOSPC (EINVAL elsewhere in the document)",
    Need.WRITE, Need.DATA, hostile=True,
)  # fmt: skip
def write_past_the_end(server: Server) -> None:
    session = server.enter()
    reply = session.ask(Command.WRITE, session.told.size, session.unit, bytes(session.unit))
    reply.must("WRITE past the end", Error.ENOSPC, Error.EINVAL)


@check(
    "X9", Tag.SHOULD, Group.REFUSALS, "Request types: NBD_CMD_WRITE_ZEROES",
    "WRITE_ZEROES past the end: ENOSPC (EINVAL elsewhere in the document)",
    Need.WRITE, Need.ZERO, Need.DATA, hostile=True,
)  # fmt: skip
def zeroes_past_the_end(server: Server) -> None:
    session = server.enter()
    reply = session.ask(Command.WRITE_ZEROES, session.told.size, session.unit)
    reply.must("WRITE_ZEROES past the end", Error.ENOSPC, Error.EINVAL)


@check(
    "X9", Tag.SHOULD, Group.REFUSALS, _ERRORS, "TRIM past the end: EINVAL",
    Need.WRITE, Need.TRIM, Need.DATA, hostile=True,
)  # fmt: skip
def trim_past_the_end(server: Server) -> None:
    session = server.enter()
    session.ask(Command.TRIM, session.told.size, session.unit).must("TRIM past the end", Error.EINVAL)


@check(
    "X10", Tag.HOUSE, Group.REFUSALS, _SIZES, "offset + length beyond 2^64 is refused like any other",
    Need.DATA, hostile=True,
)  # fmt: skip
def offset_that_overflows(server: Server) -> None:
    session = server.enter()
    unit = session.unit
    session.ask(Command.READ, (1 << 64) - unit, 2 * unit).must_fail("READ beyond 2^64")
    session.still_answers()


@check("X11", Tag.SHOULD, Group.REFUSALS, _ERRORS, "An unknown command: EINVAL", Need.DATA, hostile=True)
def unknown_command(server: Server) -> None:
    session = server.enter()
    for command in (0x7E57, 9, 0xFFFF):
        session.ask(command).must(f"command {command:#x}", Error.EINVAL)
    session.still_answers()


@check("X11", Tag.SHOULD, Group.REFUSALS, _ERRORS, "An unknown command flag: EINVAL", Need.DATA, hostile=True)
def unknown_flag(server: Server) -> None:
    session = server.enter()
    session.ask(Command.READ, 0, session.unit, flags=_UNKNOWN_FLAG).must("READ with flag bit 14", Error.EINVAL)
    session.still_answers()


@check(
    "X11", Tag.SHOULD, Group.REFUSALS, _ERRORS, "A flag that does not apply to the command: EINVAL",
    Need.DATA, hostile=True,
)  # fmt: skip
def flag_that_does_not_apply(server: Server) -> None:
    for flag in (CommandFlag.NO_HOLE, CommandFlag.REQ_ONE):
        session = server.enter()
        reply = session.ask(Command.READ, 0, session.unit, flags=flag)
        reply.must(f"READ with NBD_CMD_FLAG_{flag.name}", Error.EINVAL)
        session.still_answers()


@check("X11", Tag.SHOULD, Group.REFUSALS, _ERRORS, "DF where SEND_DF is clear: EINVAL", Need.DATA, hostile=True)
def df_not_offered(server: Server) -> None:
    session = server.enter(structured=False)
    if session.told.flags & Flag.SEND_DF:
        raise NotOffered("SEND_DF is set without structured replies (H44)")
    session.ask(Command.READ, 0, session.unit, flags=CommandFlag.DF).must("READ with NBD_CMD_FLAG_DF", Error.EINVAL)
    session.still_answers()


@check(
    "X14", Tag.HOUSE, Group.REFUSALS, _ERRORS, "A refused WRITE keeps step: its payload is consumed",
    Need.WRITE, Need.DATA, hostile=True,
)  # fmt: skip
def refused_write_keeps_step(server: Server) -> None:
    session = server.enter()
    size = 2 * max(session.unit, 4096)
    session.ask(Command.WRITE, session.told.size, size, b"\x25\x60\x95\x13" * (size // 4)).must_fail(
        "WRITE past the end"
    )
    session.still_answers()


@check(
    "X14", Tag.HOUSE, Group.REFUSALS, _READ_ONLY, "A WRITE refused for being read-only keeps step, too",
    Need.READ_ONLY, Need.DATA, hostile=True,
)  # fmt: skip
def refused_read_only_write_keeps_step(server: Server) -> None:
    session = server.enter()
    data = session.read(0, session.unit)
    session.ask(Command.WRITE, 0, len(data), data)
    session.still_answers()


@check(
    "X15", Tag.SHOULD, Group.REFUSALS, _SIZES, "A READ of 32 MiB is no attack: data or an error, no disconnect",
    Need.DATA, hostile=True,
)  # fmt: skip
def large_read(server: Server) -> None:
    if server.facts.size < SURELY_NO_ATTACK:
        raise NotOffered("the export is smaller than 32 MiB")
    for structured in {False, server.facts.structured}:
        session = server.enter(structured=structured)
        reply = session.ask(Command.READ, 0, SURELY_NO_ATTACK)
        if not reply.error:
            session.assemble(reply, 0, SURELY_NO_ATTACK)
        session.still_answers()


@check(
    "X15", Tag.SHOULD, Group.REFUSALS, _SIZES, "A WRITE of 32 MiB is no attack, whatever the maximum payload",
    Need.WRITE, Need.DATA, hostile=True,
)  # fmt: skip
def large_write(server: Server) -> None:
    size = SURELY_NO_ATTACK
    if server.facts.size < size:
        raise NotOffered("the export is smaller than 32 MiB")
    session = server.enter()
    data = session.read_all(0, size)  # what is there already
    reply = session.ask(Command.WRITE, 0, size, data)
    if reply.error and server.facts.maximum >= size:
        raise Failed("success: the maximum payload allows it", reply.name)
    session.still_answers()


@check(
    "X17", Tag.SHOULD, Group.REFUSALS, _SIZES, "A request off the minimum block: EINVAL",
    Need.MINIMUM, Need.DATA, hostile=True,
)  # fmt: skip
def off_the_minimum_block(server: Server) -> None:
    session = server.enter()
    minimum = session.told.minimum
    for offset, length in ((1, minimum), (0, minimum + 1), (minimum // 2, minimum)):
        session.ask(Command.READ, offset, length).must(f"READ of {offset}+{length}", Error.EINVAL)
    session.still_answers()


@check(
    "X18", Tag.MUST, Group.REFUSALS, _SIZES, "A client that never asked for stricter sizes gets data or clean errors",
    Need.MINIMUM, Need.INFO, Need.DATA, hostile=True,
)  # fmt: skip
def unaligned_without_block_size(server: Server) -> None:
    if not server.shake().go(server.name).ok:
        return
    session = server.enter(sizes=False)
    minimum = server.facts.minimum
    reply = session.ask(Command.READ, 1, minimum)
    if not reply.error:
        data, whole = session.assemble(reply, 1, minimum), session.read(0, 2 * minimum)
        if data != whole[1 : 1 + minimum]:
            raise Failed("the data of offset 1, or an error", "other data", data[:64])
    session.read(0, minimum)


@check(
    "X50", Tag.SHOULD, Group.REFUSALS, "Metadata querying", "BLOCK_STATUS without a context: EINVAL",
    Need.STRUCTURED, Need.DATA, hostile=True,
)  # fmt: skip
def status_without_a_context(server: Server) -> None:
    session = server.enter()
    try:
        reply = session.ask(Command.BLOCK_STATUS, 0, session.unit)
    except Gone:
        raise Failed("NBD_EINVAL", "the end of the connection") from None
    reply.must("BLOCK_STATUS without a context", Error.EINVAL)
    session.still_answers()


@check(
    "X70", Tag.SHOULD, Group.REFUSALS, _ERRORS, "Compact headers: PAYLOAD_LEN is an unknown flag, without a payload",
    Need.DATA, hostile=True,
)  # fmt: skip
def payload_flag_with_compact_headers(server: Server) -> None:
    session = server.enter()
    reply = session.ask(Command.READ, 0, session.unit, flags=CommandFlag.PAYLOAD_LEN)
    reply.must("READ with NBD_CMD_FLAG_PAYLOAD_LEN", Error.EINVAL)
    session.still_answers()
