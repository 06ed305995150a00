"""Extended headers, an experimental extension: 64-bit lengths, and one form for every reply.

Sections are those of the document's branch extension-ext-header.
"""

from __future__ import annotations

import struct

from omavol.conformance.facts import Need
from omavol.conformance.numbers import Info
from omavol.conformance.server import Server
from omavol.conformance.session import Reply, Session
from omavol.conformance.table import Group, Tag, check
from omavol.conformance.verdict import Failed, Gone, NotOffered
from omavol.nbd.wire import Chunk as Kind
from omavol.nbd.wire import Command, CommandFlag, Error, Option, OptionError
from omavol.nbd.wire import TransmissionFlag as Flag

_OPTION = "Option types: NBD_OPT_EXTENDED_HEADERS"
_CHUNK = "Extended reply chunk message"
_STATUS = "Structured reply types: NBD_REPLY_TYPE_BLOCK_STATUS_EXT"
_PAYLOAD = "Command flags: NBD_CMD_FLAG_PAYLOAD_LEN"
_FLAG = "Transmission flags: NBD_FLAG_BLOCK_STATUS_PAYLOAD"
_ALLOCATION = ("base:allocation",)


def _enter(server: Server, *, contexts: bool = False) -> Session:
    return server.enter(extended=True, contexts=_ALLOCATION if contexts else ())


def _status(reply: Reply) -> list[tuple[int, list[tuple[int, int]]]]:
    """The contexts and descriptors of a reply, their form judged (X61)."""
    found = []
    for chunk in reply.chunks:
        if chunk.type == Kind.NONE or chunk.is_error:
            continue
        if chunk.type != Kind.BLOCK_STATUS_EXT:
            raise Failed("NBD_REPLY_TYPE_BLOCK_STATUS_EXT alone", f"chunk type {chunk.type:#x}", chunk.head)
        context, count = struct.unpack(">II", chunk.payload[:8].ljust(8, b"\0"))
        if not count or len(chunk.payload) != 8 + 16 * count:
            raise Failed(f"a payload of 8 + 16 bytes for each of {count} descriptors", f"{len(chunk.payload)} bytes",
                         chunk.head + chunk.payload[:8])  # fmt: skip
        found.append((context, list(struct.iter_unpack(">QQ", chunk.payload[8:]))))
    return found


@check("H48", Tag.MUST, Group.EXTENDED, _OPTION, "GO is never answered by UNSUP after EXTENDED_HEADERS",
       Need.EXTENDED, experimental=True)  # fmt: skip
def go_after_extended_headers(server: Server) -> None:
    shake = server.shake()
    shake.ask(Option.EXTENDED_HEADERS).must(1)
    if shake.go(server.name, Info.BLOCK_SIZE).kind == OptionError.UNSUP:
        raise Failed("any other answer to NBD_OPT_GO", "NBD_REP_ERR_UNSUP")


@check("H49", Tag.MUST, Group.EXTENDED, _FLAG, "BLOCK_STATUS_PAYLOAD is clear without extended headers",
       experimental=True)  # fmt: skip
def no_payload_flag_without_extended_headers(server: Server) -> None:
    told = server.enter().told
    if told.flags & Flag.BLOCK_STATUS_PAYLOAD:
        raise Failed("no NBD_FLAG_BLOCK_STATUS_PAYLOAD", f"flags {told.flags:#06x}")


@check("H50", Tag.SHOULD, Group.EXTENDED, _OPTION, "EXTENDED_HEADERS with data is answered by INVALID",
       Need.EXTENDED, experimental=True)  # fmt: skip
def extended_headers_with_data(server: Server) -> None:
    server.shake().ask(Option.EXTENDED_HEADERS, b"data").must(OptionError.INVALID)


@check("H51", Tag.STATES, Group.EXTENDED, _OPTION, "STRUCTURED_REPLY after EXTENDED_HEADERS: EXT_HEADER_REQD",
       Need.EXTENDED, Need.STRUCTURED, experimental=True)  # fmt: skip
def structured_after_extended(server: Server) -> None:
    shake = server.shake()
    shake.ask(Option.EXTENDED_HEADERS).must(1)
    shake.ask(Option.STRUCTURED_REPLY).must(OptionError.EXT_HEADER_REQD)


@check("H52", Tag.HOUSE, Group.EXTENDED, _OPTION, "EXPORT_NAME after EXTENDED_HEADERS ends the connection",
       Need.EXTENDED, experimental=True, hostile=True)  # fmt: skip
def export_name_after_extended(server: Server) -> None:
    shake = server.shake()
    shake.ask(Option.EXTENDED_HEADERS).must(1)
    shake.say(Option.EXPORT_NAME, server.name)
    shake.link.must_end("the end of the connection after EXPORT_NAME with extended headers")


@check("X60", Tag.MUST, Group.EXTENDED, _CHUNK, "Every reply is extended, and has the request's offset",
       Need.EXTENDED, Need.DATA, experimental=True)  # fmt: skip
def every_reply_is_extended(server: Server) -> None:
    session = _enter(server)
    unit = session.unit
    asked = [(Command.READ, 0, unit), (Command.READ, unit, unit), (Command.READ, session.told.size, unit)]
    asked += [(Command.FLUSH, 0, 0)] if session.told.flags & Flag.SEND_FLUSH else []
    for command, offset, length in asked:
        reply = session.ask(command, offset, length)
        if not reply.extended:
            raise Failed(f"an extended reply to NBD_CMD_{command.name}", "another one", session.link.came)
        if wrong := [chunk for chunk in reply.chunks if chunk.offset != offset]:
            raise Failed(f"the request's offset {offset}", f"{wrong[0].offset}", wrong[0].head)


@check("X26", Tag.MUST, Group.EXTENDED, _CHUNK, "READ gives the data that compact headers give",
       Need.EXTENDED, Need.DATA, experimental=True)  # fmt: skip
def extended_reads(server: Server) -> None:
    compact = server.enter(structured=False)
    length = min(compact.told.size, 1 << 20)
    length -= length % max(compact.told.minimum, 1)
    data = compact.read(0, length)
    if _enter(server).read(0, length) != data:
        raise Failed(f"the first {length} bytes, as with compact headers", "other data")


@check("X61", Tag.MUST, Group.EXTENDED, _STATUS, "BLOCK_STATUS is answered by BLOCK_STATUS_EXT, its count right",
       Need.EXTENDED, Need.ALLOCATION, Need.DATA, experimental=True)  # fmt: skip
def extended_status(server: Server) -> None:
    session = _enter(server, contexts=True)
    for length in (session.unit, session.told.size // max(session.told.minimum, 1) * max(session.told.minimum, 1)):
        found = _status(session.ask(Command.BLOCK_STATUS, 0, length).must("BLOCK_STATUS", 0))
        if [context for context, _ in found] != list(session.contexts.values()):
            raise Failed("one status chunk for the selected context", f"{len(found)}", session.link.came)
        if any(size == 0 for _, extents in found for size, _ in extents):
            raise Failed("descriptors that are not empty", "an empty one", session.link.came)


@check("X62", Tag.MUST, Group.EXTENDED, _STATUS, "Its descriptors are multiples of the minimum block",
       Need.EXTENDED, Need.ALLOCATION, Need.SIZES, Need.DATA, experimental=True)  # fmt: skip
def extended_status_in_minimum_blocks(server: Server) -> None:
    session = _enter(server, contexts=True)
    minimum = session.told.minimum
    length = session.told.size // minimum * minimum
    for _, extents in _status(session.ask(Command.BLOCK_STATUS, 0, length)):
        if wrong := [size for size, _ in extents if size % minimum]:
            raise Failed(f"multiples of {minimum}", f"{wrong[0]}", session.link.came)


@check("X63", Tag.MUST, Group.EXTENDED, _STATUS, "The upper 32 status bits are 0 in `base:`",
       Need.EXTENDED, Need.ALLOCATION, Need.DATA, experimental=True)  # fmt: skip
def upper_status_bits(server: Server) -> None:
    session = _enter(server, contexts=True)
    for _, extents in _status(session.ask(Command.BLOCK_STATUS, 0, session.unit)):
        if wrong := [status for _, status in extents if status >> 32]:
            raise Failed("a status of 32 bits", f"{wrong[0]:#x}", session.link.came)


def _filtered(session: Session, ids: list[int], length: int | None = None) -> Reply:
    """BLOCK_STATUS with a payload that names contexts; `length` is what the header says of it."""
    payload = struct.pack(f">Q{len(ids)}I", session.unit, *ids)
    said = len(payload) if length is None else length
    return session.ask(Command.BLOCK_STATUS, 0, said, payload[:said], flags=CommandFlag.PAYLOAD_LEN)


@check("X64", Tag.MUST, Group.EXTENDED, _FLAG, "BLOCK_STATUS with a payload: the contexts named there answer alone",
       Need.EXTENDED, Need.ALLOCATION, Need.DATA, experimental=True)  # fmt: skip
def status_with_a_payload(server: Server) -> None:
    session = server.enter(extended=True, contexts=server.facts.contexts)
    if not session.told.flags & Flag.BLOCK_STATUS_PAYLOAD:
        raise NotOffered("no BLOCK_STATUS_PAYLOAD")
    wanted = session.contexts["base:allocation"]
    found = _status(_filtered(session, [wanted]).must("BLOCK_STATUS with a payload", 0))
    if [context for context, _ in found] != [wanted]:
        raise Failed(f"context {wanted} alone", f"{[context for context, _ in found]}", session.link.came)


@check("X65", Tag.MUST, Group.EXTENDED, _FLAG, "An id that is unknown or doubled there: EINVAL, and in step",
       Need.EXTENDED, Need.ALLOCATION, Need.DATA, experimental=True, hostile=True)  # fmt: skip
def status_of_unknown_ids(server: Server) -> None:
    session = _enter(server, contexts=True)
    known = session.contexts["base:allocation"]
    for ids in ([known ^ 0x5A5A5A5A], [known, known]):
        _filtered(session, ids).must(f"BLOCK_STATUS for contexts {ids}", Error.EINVAL)
        session.still_answers()


@check("X66", Tag.SHOULD, Group.EXTENDED, _PAYLOAD, "PAYLOAD_LEN on another command: its payload is consumed, EINVAL",
       Need.EXTENDED, Need.DATA, experimental=True, hostile=True)  # fmt: skip
def payload_of_another_command(server: Server) -> None:
    session = _enter(server)
    reply = session.ask(Command.READ, 0, 16, bytes(16), flags=CommandFlag.PAYLOAD_LEN)
    reply.must("READ with a payload", Error.EINVAL)
    session.still_answers()


@check("X69", Tag.HOUSE, Group.EXTENDED, _PAYLOAD, "A payload of BLOCK_STATUS that is no 8 + 4n bytes: EINVAL",
       Need.EXTENDED, Need.ALLOCATION, Need.DATA, experimental=True, hostile=True)  # fmt: skip
def status_payload_of_odd_length(server: Server) -> None:
    session = _enter(server, contexts=True)
    known = session.contexts["base:allocation"]
    try:
        _filtered(session, [known], 10).must("BLOCK_STATUS with a payload of 10 bytes", Error.EINVAL)
    except Gone:
        raise Failed("NBD_EINVAL", "the end of the connection") from None
    session.still_answers()
