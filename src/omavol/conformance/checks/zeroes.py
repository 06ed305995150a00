"""WRITE_ZEROES and its two flags. All of it needs leave to write."""

from __future__ import annotations

from omavol.conformance.facts import Need
from omavol.conformance.server import Server
from omavol.conformance.session import Session
from omavol.conformance.table import Group, Tag, check
from omavol.conformance.verdict import Failed, NotOffered
from omavol.nbd.wire import Command, CommandFlag, Error

_ZEROES = "Request types: NBD_CMD_WRITE_ZEROES"
_NO_HOLE = "Command flags: NBD_CMD_FLAG_NO_HOLE"
_FAST = "Command flags: NBD_CMD_FLAG_FAST_ZERO"


def _filled(server: Server) -> tuple[Session, int]:
    """A session, and the length of the scratch region, full of 0xa5."""
    session = server.enter()
    length = min(server.scratch_size, 256 << 10)
    session.write(server.scratch, b"\xa5" * length)
    return session, length


def _reads_zero(session: Session, offset: int, length: int) -> None:
    data = session.read(offset, length)
    if data != bytes(length):
        at = next(number for number, byte in enumerate(data) if byte)
        raise Failed("zeroes after WRITE_ZEROES", f"{data[at]:#04x} at {offset + at}", data[at : at + 32])


@check("X38", Tag.MUST, Group.WRITES, _ZEROES, "WRITE_ZEROES reads back as zero", Need.WRITE, Need.ZERO, Need.DATA)
def zeroes_read_back(server: Server) -> None:
    session, length = _filled(server)
    unit = max(session.told.minimum, 512)
    session.ask(Command.WRITE_ZEROES, server.scratch + unit, length - 2 * unit).must("WRITE_ZEROES", 0)
    _reads_zero(session, server.scratch + unit, length - 2 * unit)
    for offset in (server.scratch, server.scratch + length - unit):
        if session.read(offset, unit) != b"\xa5" * unit:
            raise Failed("the data around the zeroes as it was", "other data")


@check("X39", Tag.MUST, Group.WRITES, _NO_HOLE, "NO_HOLE works", Need.WRITE, Need.ZERO, Need.DATA)
def no_hole(server: Server) -> None:
    session, length = _filled(server)
    reply = session.ask(Command.WRITE_ZEROES, server.scratch, length, flags=CommandFlag.NO_HOLE)
    reply.must("WRITE_ZEROES with NBD_CMD_FLAG_NO_HOLE", 0)
    _reads_zero(session, server.scratch, length)


@check("X40", Tag.MUST, Group.WRITES, _FAST, "FAST_ZERO succeeds, or fails by ENOTSUP",
       Need.WRITE, Need.FAST_ZERO, Need.DATA)  # fmt: skip
def fast_zero(server: Server) -> None:
    session, length = _filled(server)
    reply = session.ask(Command.WRITE_ZEROES, server.scratch, length, flags=CommandFlag.FAST_ZERO)
    if not reply.must("WRITE_ZEROES with NBD_CMD_FLAG_FAST_ZERO", 0, Error.ENOTSUP).error:
        _reads_zero(session, server.scratch, length)


@check("X41", Tag.MUST, Group.WRITES, _ZEROES, "FAST_ZERO is offered: without the flag never ENOTSUP",
       Need.WRITE, Need.FAST_ZERO, Need.DATA)  # fmt: skip
def slow_zeroes_never_unsupported(server: Server) -> None:
    session, length = _filled(server)
    for flags in (0, CommandFlag.NO_HOLE):
        if session.ask(Command.WRITE_ZEROES, server.scratch, length, flags=flags).error == Error.ENOTSUP:
            raise Failed("anything but NBD_ENOTSUP", "NBD_ENOTSUP", session.link.came)


@check("X42", Tag.SHOULD, Group.WRITES, _ZEROES, "FAST_ZERO is not offered: the flag is EINVAL",
       Need.WRITE, Need.ZERO, Need.NO_FAST_ZERO, Need.DATA, hostile=True)  # fmt: skip
def fast_zero_not_offered(server: Server) -> None:
    session, length = _filled(server)
    reply = session.ask(Command.WRITE_ZEROES, server.scratch, length, flags=CommandFlag.FAST_ZERO)
    reply.must("WRITE_ZEROES with NBD_CMD_FLAG_FAST_ZERO, which was not offered", Error.EINVAL)
    session.still_answers()


@check("X42", Tag.SHOULD, Group.WRITES, _ZEROES, "FAST_ZERO is not offered: never ENOTSUP",
       Need.WRITE, Need.ZERO, Need.NO_FAST_ZERO, Need.DATA)  # fmt: skip
def zeroes_never_unsupported(server: Server) -> None:
    session, length = _filled(server)
    if session.ask(Command.WRITE_ZEROES, server.scratch, length).error == Error.ENOTSUP:
        raise Failed("anything but NBD_ENOTSUP", "NBD_ENOTSUP", session.link.came)


@check("X43", Tag.SHOULD, Group.WRITES, _ZEROES, "FAST_ZERO that fails by ENOTSUP leaves the data",
       Need.WRITE, Need.FAST_ZERO, Need.DATA)  # fmt: skip
def failed_fast_zero_leaves_the_data(server: Server) -> None:
    session, length = _filled(server)
    for flags in (CommandFlag.FAST_ZERO | CommandFlag.NO_HOLE, CommandFlag.FAST_ZERO):
        if session.ask(Command.WRITE_ZEROES, server.scratch, length, flags=flags).error == Error.ENOTSUP:
            if session.read(server.scratch, length) != b"\xa5" * length:
                raise Failed("the data as it was", "other data")
            return
    raise NotOffered("FAST_ZERO never failed")
