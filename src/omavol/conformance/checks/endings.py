"""How a connection ends: by DISC, or by a client that is simply gone."""

from __future__ import annotations

from omavol.conformance.facts import Need
from omavol.conformance.server import Server
from omavol.conformance.table import Group, Tag, check
from omavol.conformance.verdict import Failed
from omavol.nbd.wire import Command

_DISC = "Request types: NBD_CMD_DISC"
_END = "Terminating the transmission phase"
_LENGTH = 1 << 18


@check("X52", Tag.MUST, Group.ENDINGS, _DISC, "DISC ends the connection, without a reply")
def disconnect(server: Server) -> None:
    for structured in (False, True) * 4:  # some servers do it now and then
        session = server.enter(structured=structured)
        session.leave()
        session.link.must_end("the end of the connection after NBD_CMD_DISC")


@check("X52", Tag.MUST, Group.ENDINGS, _DISC, "A WRITE before DISC is carried out", Need.WRITE, Need.DATA)
def writes_before_disc(server: Server) -> None:
    session = server.enter()
    unit = max(session.told.minimum, 4096)
    asked = {}
    for number in range(4):
        cookie = session.request(Command.WRITE, server.scratch + number * unit, unit, bytes([number + 1]) * unit)
        asked[cookie] = (Command.WRITE, unit)
    session.leave()
    while not session.link.ends():
        pass  # answers may come before the end
    data = server.enter(structured=False).read(server.scratch, 4 * unit)
    wanted = b"".join(bytes([number + 1]) * unit for number in range(4))
    if data != wanted:
        raise Failed("what was written before NBD_CMD_DISC", "other data", data[:16])


@check("X53", Tag.HOUSE, Group.ENDINGS, _DISC, "READs before DISC are answered, then the connection ends", Need.DATA)
def reads_before_disc(server: Server) -> None:
    session = server.enter()
    asked = {session.request(Command.READ, 0, session.unit): (Command.READ, session.unit) for _ in range(8)}
    session.leave()
    for reply in session.hear(asked).values():
        reply.must("READ before DISC", 0)
    session.link.must_end("the end of the connection after NBD_CMD_DISC")


@check("X53", Tag.HOUSE, Group.ENDINGS, _DISC, "Nothing behind DISC is obeyed", Need.DATA, hostile=True)
def nothing_behind_disc(server: Server) -> None:
    session = server.enter()
    disc = session.pack(Command.DISC, 0, 0, 0, 1)
    session.link.say(disc + session.pack(Command.READ, 0, session.unit, 0, 2))
    session.link.must_end("the end of the connection, and no reply to a request behind NBD_CMD_DISC")


@check(
    "X54", Tag.HOUSE, Group.ENDINGS, _END, "A client that leaves with replies in flight harms nobody else",
    Need.DATA, hostile=True,
)  # fmt: skip
def gone_with_replies_in_flight(server: Server) -> None:
    length = min(server.facts.size, _LENGTH) // max(server.facts.minimum, 1) * max(server.facts.minimum, 1)
    for _ in range(8):
        session = server.enter()
        session.link.say(b"".join(session.pack(Command.READ, 0, length, 0, cookie) for cookie in range(64)))
        session.link.hear(4)
        session.link.close()


@check(
    "X54", Tag.HOUSE, Group.ENDINGS, _END, "A client that leaves in the middle of a request harms nobody else",
    Need.DATA, hostile=True,
)  # fmt: skip
def gone_in_a_request(server: Server) -> None:
    for cut in (1, 4, 27):
        session = server.enter()
        session.link.say(session.pack(Command.READ, 0, session.unit, 0, 1)[:cut])
        session.link.close()


@check(
    "X54", Tag.HOUSE, Group.ENDINGS, _END, "A client that leaves in the middle of a payload harms nobody else",
    Need.WRITE, Need.DATA, hostile=True,
)  # fmt: skip
def gone_in_a_payload(server: Server) -> None:
    session = server.enter()
    size = server.scratch_size
    session.link.say(session.pack(Command.WRITE, server.scratch, size, 0, 1) + b"\x5a" * (size // 2))
    session.link.close()
