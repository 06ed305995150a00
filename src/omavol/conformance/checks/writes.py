"""WRITE, FLUSH and TRIM: that data comes back, on this connection and on others. All of it needs leave to write."""

from __future__ import annotations

from omavol.conformance.facts import Need
from omavol.conformance.server import Server
from omavol.conformance.table import Group, Tag, check
from omavol.conformance.verdict import Failed, NotOffered
from omavol.nbd.wire import Command, CommandFlag
from omavol.nbd.wire import TransmissionFlag as Flag

_WRITE = "Request types: NBD_CMD_WRITE"
_SIZES = "Size constraints"
_MULTI = "Transmission flags: NBD_FLAG_CAN_MULTI_CONN"


@check("X38", Tag.STATES, Group.WRITES, _WRITE, "What is written is read back", Need.WRITE, Need.DATA)
def writes_read_back(server: Server) -> None:
    session = server.enter()
    unit = max(session.told.minimum, 1)
    for offset, length in ((0, 4096), (512, 512), (1, 3), (4095, 65538)):
        offset, length = offset // unit * unit, max(length // unit, 1) * unit
        if offset + length > server.scratch_size:
            continue
        data = bytes((length + number) * 7 & 0xFF for number in range(length))
        session.write(server.scratch + offset, data)
        if session.read(server.scratch + offset, length) != data:
            raise Failed(f"the {length} bytes written at {server.scratch + offset}", "other data")


@check(
    "X1", Tag.MUST, Group.WRITES, "Transmission", "WRITEs in flight together each take their own payload",
    Need.WRITE, Need.DATA,
)  # fmt: skip
def writes_in_flight(server: Server) -> None:
    session = server.enter()
    unit = max(session.told.minimum, 512)
    places = range(0, min(server.scratch_size, 32 * unit), unit)
    asked = {}
    for number, place in enumerate(places):
        data = bytes([number + 1]) * unit
        asked[session.request(Command.WRITE, server.scratch + place, unit, data)] = (Command.WRITE, unit)
    for reply in session.hear(asked).values():
        reply.must("WRITE", 0)
    for number, place in enumerate(places):
        if session.read(server.scratch + place, unit) != bytes([number + 1]) * unit:
            raise Failed(f"the payload of WRITE {number + 1} at {server.scratch + place}", "other data")


@check("X22", Tag.MUST, Group.WRITES, _MULTI, "After a FLUSH here, another connection reads what was written",
       Need.WRITE, Need.FLUSH, Need.MULTI_CONN, Need.DATA)  # fmt: skip
def flush_is_seen_elsewhere(server: Server) -> None:
    first, second = server.enter(), server.enter(beside=True)
    unit = max(first.told.minimum, 4096)
    second.read(server.scratch, unit)  # what a cache of its own would keep
    for byte in (b"\x11", b"\x22"):
        first.write(server.scratch, byte * unit)
        first.ask(Command.FLUSH).must("FLUSH", 0)
        if second.read(server.scratch, unit) != byte * unit:
            raise Failed("on the second connection, what was written and flushed on the first", "older data")


@check("X22", Tag.MUST, Group.WRITES, _MULTI, "So it does after a WRITE with FUA",
       Need.WRITE, Need.FUA, Need.MULTI_CONN, Need.DATA)  # fmt: skip
def fua_is_seen_elsewhere(server: Server) -> None:
    first, second = server.enter(), server.enter(beside=True)
    unit = max(first.told.minimum, 4096)
    second.read(server.scratch, unit)
    first.write(server.scratch, b"\x33" * unit, flags=CommandFlag.FUA)
    if second.read(server.scratch, unit) != b"\x33" * unit:
        raise Failed("on the second connection, what was written with FUA on the first", "older data")


@check(
    "X16", Tag.SHOULD, Group.WRITES, _SIZES, "TRIM and WRITE_ZEROES above the maximum payload do not disconnect",
    Need.WRITE, Need.DATA, hostile=True,
)  # fmt: skip
def effects_above_the_maximum(server: Server) -> None:
    maximum = server.facts.maximum or 1 << 25
    minimum = max(server.facts.minimum, 1)
    length = (maximum // minimum + 1) * minimum
    if server.facts.size < length or length > 1 << 27:
        raise NotOffered("the export is not larger than the maximum payload, or that is above 128 MiB")
    saved = server.enter()
    content = saved.read_all(0, length)
    try:
        for flag, command in ((Flag.SEND_TRIM, Command.TRIM), (Flag.SEND_WRITE_ZEROES, Command.WRITE_ZEROES)):
            if server.facts.has(flag):
                session = server.enter()
                session.ask(command, 0, length)
                session.still_answers()
    finally:
        restored = server.enter()
        for at in range(0, length, restored.step):
            restored.write(at, content[at : at + restored.step])


@check(
    "X18", Tag.MUST, Group.WRITES, _SIZES, "An unaligned WRITE of a client without block sizes corrupts nothing",
    Need.WRITE, Need.MINIMUM, Need.INFO, Need.DATA, hostile=True,
)  # fmt: skip
def unaligned_write_corrupts_nothing(server: Server) -> None:
    if not server.shake().go(server.name).ok:
        return
    minimum = server.facts.minimum
    session = server.enter(sizes=False)
    before = session.read(server.scratch, 2 * minimum)
    reply = session.ask(Command.WRITE, server.scratch + 1, minimum, b"\x5a" * minimum)
    wanted = before if reply.error else before[:1] + b"\x5a" * minimum + before[1 + minimum :]
    if session.read(server.scratch, 2 * minimum) != wanted:
        raise Failed("the old data, or what was written and the old data around it", "other data")
