"""BLOCK_STATUS: one chunk for each context, and descriptors that are not empty, in order and in bounds."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from omavol.conformance.facts import Need
from omavol.conformance.server import Server
from omavol.conformance.session import Reply, Session
from omavol.conformance.table import Group, Tag, check
from omavol.conformance.verdict import Failed
from omavol.nbd.wire import Chunk as Kind
from omavol.nbd.wire import Command, CommandFlag

_STATUS = "Structured reply types: NBD_REPLY_TYPE_BLOCK_STATUS"
_COMMAND = "Request types: NBD_CMD_BLOCK_STATUS"
_LARGEST = 0xFFFF_FFFF


@dataclass(frozen=True)
class Told:
    """The descriptors of one context: (length, status), from the request's offset on."""

    context: int
    extents: tuple[tuple[int, int], ...]
    payload: bytes


def told(reply: Reply) -> list[Told]:
    """The status chunks of a reply, their form judged (X45)."""
    found = []
    for chunk in reply.chunks:
        if chunk.type != Kind.BLOCK_STATUS:
            continue
        if len(chunk.payload) < 12 or (len(chunk.payload) - 4) % 8:
            raise Failed("a length of 4 + 8 for each of one or more descriptors", f"{len(chunk.payload)}", chunk.head)
        extents = tuple(struct.iter_unpack(">II", chunk.payload[4:]))
        if any(length == 0 for length, _ in extents):
            raise Failed("descriptors that are not empty", "an empty one", chunk.payload)
        found.append(Told(int.from_bytes(chunk.payload[:4]), extents, chunk.payload))
    return found


def _ask(session: Session, offset: int, length: int, flags: int = 0) -> list[Told]:
    reply = session.ask(Command.BLOCK_STATUS, offset, length, flags=flags)
    return told(reply.must(f"BLOCK_STATUS of {offset}+{length}", 0))


def _whole(session: Session) -> int:
    """The longest request inside the export, in minimum blocks."""
    unit = max(session.told.minimum, 1)
    return min(session.told.size, _LARGEST) // unit * unit


@check("X44", Tag.MUST, Group.STATUS, _COMMAND, "Exactly one status chunk for each selected context",
       Need.CONTEXTS, Need.DATA)  # fmt: skip
def one_chunk_a_context(server: Server) -> None:
    session = server.enter(contexts=server.facts.contexts)
    for length in (session.unit, _whole(session)):
        ids = [each.context for each in _ask(session, 0, length)]
        if sorted(ids) != sorted(session.contexts.values()):
            raise Failed(f"contexts {sorted(session.contexts.values())} once each", f"{sorted(ids)}", session.link.came)


@check("X45", Tag.MUST, Group.STATUS, _STATUS, "One descriptor or more, none empty", Need.CONTEXTS, Need.DATA)
def descriptors(server: Server) -> None:
    session = server.enter(contexts=server.facts.contexts)
    unit = session.unit
    for offset in (0, unit, (session.told.size - unit) // unit * unit):
        if not _ask(session, offset, unit):
            raise Failed("a status chunk", "none", session.link.came)


@check("X45", Tag.MUST, Group.STATUS, _COMMAND, "A walk by what each answer covers reaches the end of the export",
       Need.ALLOCATION, Need.DATA)  # fmt: skip
def a_walk_reaches_the_end(server: Server) -> None:
    session = server.enter(contexts=("base:allocation",))
    offset, size, unit = 0, session.told.size, max(session.told.minimum, 1)
    for _ in range(1000):
        length = min(size - offset, _LARGEST) // unit * unit
        if not length:
            return
        (answer,) = _ask(session, offset, length)
        offset += sum(length for length, _ in answer.extents)
    raise Failed(f"progress to {size} within 1000 requests", f"offset {offset}")


@check("X46", Tag.MUST, Group.STATUS, _STATUS, "REQ_ONE: exactly one descriptor, not longer than the request",
       Need.CONTEXTS, Need.DATA)  # fmt: skip
def request_of_one(server: Server) -> None:
    session = server.enter(contexts=server.facts.contexts)
    for length in (session.unit, _whole(session)):
        for answer in _ask(session, 0, length, CommandFlag.REQ_ONE):
            if len(answer.extents) != 1 or answer.extents[0][0] > length:
                raise Failed(f"one descriptor of at most {length}", f"{answer.extents[:4]}", answer.payload)


@check("X47", Tag.MUST, Group.STATUS, _STATUS, "All descriptors but the last end inside the request",
       Need.CONTEXTS, Need.DATA)  # fmt: skip
def descriptors_end_inside(server: Server) -> None:
    session = server.enter(contexts=server.facts.contexts)
    for length in (session.unit, min(_whole(session), 1 << 20), _whole(session)):
        for answer in _ask(session, 0, length):
            inside = sum(size for size, _ in answer.extents[:-1])
            if inside and inside >= length:
                raise Failed(f"less than {length} before the last descriptor", f"{inside}", answer.payload)


@check("X48", Tag.HOUSE, Group.STATUS, _COMMAND, "No descriptor passes the end of the export", Need.CONTEXTS, Need.DATA)
def descriptors_end_with_the_export(server: Server) -> None:
    session = server.enter(contexts=server.facts.contexts)
    unit = session.unit
    last = (session.told.size - unit) // unit * unit
    for offset, length in ((0, _whole(session)), (last, unit)):
        for answer in _ask(session, offset, length):
            end = offset + sum(size for size, _ in answer.extents)
            if end > session.told.size:
                raise Failed(f"an end of {session.told.size} at most", f"{end}", answer.payload)


@check("X49", Tag.MUST, Group.STATUS, _COMMAND, "Descriptors are multiples of the minimum block that is told",
       Need.CONTEXTS, Need.SIZES, Need.DATA)  # fmt: skip
def descriptors_in_minimum_blocks(server: Server) -> None:
    session = server.enter(contexts=server.facts.contexts)
    minimum = session.told.minimum
    for answer in _ask(session, 0, _whole(session)):
        if wrong := [size for size, _ in answer.extents if size % minimum]:
            raise Failed(f"multiples of {minimum}", f"{wrong[0]}", answer.payload)


@check("X49", Tag.SHOULD, Group.STATUS, _COMMAND, "Neighbours differ in status; 2^20 of them at most",
       Need.CONTEXTS, Need.DATA)  # fmt: skip
def neighbours_differ(server: Server) -> None:
    session = server.enter(contexts=server.facts.contexts)
    for answer in _ask(session, 0, _whole(session)):
        if len(answer.extents) > 1 << 20:
            raise Failed("at most 2^20 descriptors", f"{len(answer.extents)}")
        for (_, first), (_, second) in zip(answer.extents, answer.extents[1:], strict=False):
            if first == second:
                raise Failed("neighbours of different status", f"two of status {first}", answer.payload)


@check("X51", Tag.SHOULD, Group.STATUS, "`base:allocation` metadata context", "Unused bits of base:allocation are 0",
       Need.ALLOCATION, Need.DATA)  # fmt: skip
def unused_bits(server: Server) -> None:
    session = server.enter(contexts=("base:allocation",))
    for answer in _ask(session, 0, _whole(session)):
        if wrong := [status for _, status in answer.extents if status & ~3]:
            raise Failed("bits 0 and 1 alone", f"{wrong[0]:#x}", answer.payload)


@check("X51", Tag.STATES, Group.STATUS, "`base:allocation` metadata context", "What is told to be zero reads as zero",
       Need.ALLOCATION, Need.DATA)  # fmt: skip
def zero_reads_as_zero(server: Server) -> None:
    session = server.enter(contexts=("base:allocation",))
    offset = 0
    for size, status in _ask(session, 0, _whole(session))[0].extents[:64]:
        length = min(size, 1 << 20, session.told.size - offset)
        if status & 2 and any(session.read(offset, length)):
            raise Failed(f"zeroes at {offset}+{length}, told to be NBD_STATE_ZERO", "other data")
        offset += size
