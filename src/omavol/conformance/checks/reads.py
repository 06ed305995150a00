"""READ: what a simple reply carries, how chunks lie, and the two limits: DF and the maximum payload."""

from __future__ import annotations

from collections.abc import Iterator

from omavol.conformance.facts import Need
from omavol.conformance.numbers import MAXIMUM_FRAGMENTLESS
from omavol.conformance.server import Server
from omavol.conformance.session import Session
from omavol.conformance.table import Group, Tag, check
from omavol.conformance.verdict import Failed, NotOffered
from omavol.nbd.wire import DEFAULT_MAXIMUM, Command, CommandFlag, Error
from omavol.nbd.wire import Chunk as Kind

_READ = "Request types: NBD_CMD_READ"
_DATA = "Structured reply types: NBD_REPLY_TYPE_OFFSET_DATA"
_DF = "Command flags: NBD_CMD_FLAG_DF"
_AREA = 8 << 20  # bytes from the start that are read whole


def _spans(session: Session) -> Iterator[tuple[int, int]]:
    """Requests of many shapes inside the export, in minimum blocks."""
    size, unit = session.told.size, max(session.told.minimum, 1)
    shapes = ((0, 512), (512, 1024), (1, 1), (511, 4098), (65535, 65538), (0, 1 << 20), (3 << 19, 1 << 20))
    for offset, length in shapes:
        offset, length = offset // unit * unit, max(length // unit, 1) * unit
        if offset + length <= size and length <= session.step:
            yield offset, length
    if size >= unit:
        yield (size // unit - 1) * unit, unit


@check("X24", Tag.MUST, Group.READS, _READ, "A simple reply has all the data, or an error and none", Need.DATA)
def simple_reads(server: Server) -> None:
    session = server.enter(structured=False)
    for offset, length in _spans(session):
        session.read(offset, length)
    session.ask(Command.READ, session.told.size, session.unit).must_fail("READ past the end")
    session.still_answers()


@check(
    "X26", Tag.MUST, Group.READS, _DATA, "Content chunks have a byte, lie in the request and overlap nowhere",
    Need.STRUCTURED, Need.DATA,
)  # fmt: skip
def content_chunks(server: Server) -> None:
    session = server.enter()
    for offset, length in _spans(session):
        session.read(offset, length)


@check("X27", Tag.MUST, Group.READS, _READ, "Chunks cover the request, with the data of simple replies",
       Need.STRUCTURED, Need.DATA)  # fmt: skip
def chunks_cover_the_request(server: Server) -> None:
    whole = min(server.facts.size, _AREA) // max(server.facts.minimum, 1) * max(server.facts.minimum, 1)
    simple = server.enter(structured=False)
    areas = [(offset, min(simple.step, whole - offset)) for offset in range(0, whole, simple.step)]
    expected = [simple.read(offset, length) for offset, length in areas]
    chunked = server.enter()
    for (offset, length), data in zip(areas, expected, strict=True):
        if data != chunked.read(offset, length):
            raise Failed(f"the same data of {offset}+{length} by chunks and by a simple reply", "other data")


@check("X27", Tag.MUST, Group.READS, _READ, "The last byte of the export can be read", Need.DATA)
def the_last_byte(server: Server) -> None:
    session = server.enter()
    unit = max(session.told.minimum, 1)
    session.read((session.told.size // unit - 1) * unit, unit)


@check(
    "X32", Tag.MUST, Group.READS, "Structured reply types", "No chunk has more data than the maximum payload",
    Need.STRUCTURED, Need.SIZES, Need.DATA,
)  # fmt: skip
def chunks_keep_the_maximum(server: Server) -> None:
    maximum = server.facts.maximum
    length = min(server.facts.size, 1 << 26, maximum + (1 << 20))
    length -= length % max(server.facts.minimum, 1)
    session = server.enter()
    reply = session.ask(Command.READ, 0, length)
    for chunk in reply.chunks:
        if chunk.type == Kind.OFFSET_DATA and len(chunk.payload) - 8 > maximum:
            raise Failed(f"at most {maximum} bytes", f"{len(chunk.payload) - 8}", chunk.head)


@check(
    "X33", Tag.MAY, Group.READS, _READ, "A READ of more than the maximum payload comes in chunks or is an error",
    Need.STRUCTURED, Need.DATA, hostile=True,
)  # fmt: skip
def read_of_more_than_the_maximum(server: Server) -> None:
    maximum = server.facts.maximum or DEFAULT_MAXIMUM
    length = min(server.facts.size, 1 << 26)
    if length <= maximum:
        raise NotOffered(f"the export has no more than the maximum payload of {maximum}")
    session = server.enter()
    reply = session.ask(Command.READ, 0, length - length % max(server.facts.minimum, 1))
    if not reply.error:
        session.assemble(reply, 0, length - length % max(server.facts.minimum, 1))
    session.still_answers()


@check("X34", Tag.MUST, Group.READS, _DF, "DF: one content chunk at most", Need.DF, Need.DATA)
def one_content_chunk(server: Server) -> None:
    session = server.enter()
    for offset, length in _spans(session):
        reply = session.ask(Command.READ, offset, length, flags=CommandFlag.DF)
        if len(reply.content) > 1:
            raise Failed("one content chunk at most", f"{len(reply.content)}", reply.content[1].head)


@check(
    "X34", Tag.MUST, Group.READS, _READ, "DF: a hole beside data is sent as zeroes in one data chunk",
    Need.WRITE, Need.DF, Need.ZERO, Need.DATA,
)  # fmt: skip
def hole_beside_data(server: Server) -> None:
    session = server.enter()
    half = min(MAXIMUM_FRAGMENTLESS, server.scratch_size) // 2
    session.write(server.scratch, b"\xa5" * 2 * half)
    session.ask(Command.WRITE_ZEROES, server.scratch + half, half).must("WRITE_ZEROES", 0)
    reply = session.ask(Command.READ, server.scratch, 2 * half, flags=CommandFlag.DF)
    data = session.assemble(reply, server.scratch, 2 * half)
    if [chunk.type for chunk in reply.content] != [Kind.OFFSET_DATA]:
        raise Failed("one NBD_REPLY_TYPE_OFFSET_DATA", f"chunks {[chunk.type for chunk in reply.content]}")
    if data != b"\xa5" * half + bytes(half):
        raise Failed("the data, then zeroes", "other data")


@check("X35", Tag.MUST, Group.READS, _READ, "DF works up to 64 KiB", Need.DF, Need.DATA)
def df_works(server: Server) -> None:
    session = server.enter()
    for length in (session.unit, min(session.told.size, MAXIMUM_FRAGMENTLESS)):
        session.read(0, length - length % max(session.told.minimum, 1), flags=CommandFlag.DF)


@check(
    "X36", Tag.MAY, Group.READS, _READ, "DF: a longer READ may be answered by EOVERFLOW, then without content (X37)",
    Need.DF, Need.DATA,
)  # fmt: skip
def df_of_a_large_read(server: Server) -> None:
    session = server.enter()
    length = min(session.told.size, 1 << 24)
    reply = session.ask(Command.READ, 0, length - length % max(session.told.minimum, 1), flags=CommandFlag.DF)
    reply.must("a READ of up to 16 MiB with DF", 0, Error.EOVERFLOW, Error.EINVAL)
    if reply.error == Error.EOVERFLOW and reply.content:
        raise Failed("no content chunk beside NBD_EOVERFLOW", f"{len(reply.content)}", reply.content[0].head)
    session.still_answers()
