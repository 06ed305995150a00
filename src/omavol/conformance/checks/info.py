"""INFO and GO: what is told of an export, and what a refusal leaves as it was."""

from __future__ import annotations

from omavol import _wire
from omavol.conformance.facts import Need
from omavol.conformance.numbers import NO_ZEROES, Info, Rep, option_name
from omavol.conformance.server import Server
from omavol.conformance.shake import Answer
from omavol.conformance.table import Group, Tag, check
from omavol.conformance.verdict import Failed, Gone, NotOffered
from omavol.nbd.wire import Chunk as Kind
from omavol.nbd.wire import Command, Option, OptionError

_GO = "Option types: NBD_OPT_INFO and NBD_OPT_GO"
_INFO = "Option reply types: NBD_REP_INFO"
_EXPORT = "Option reply types: NBD_INFO_EXPORT"


@check("H12", Tag.MUST, Group.INFO, _INFO, "INFO and GO tell INFO_EXPORT, 12 bytes long, before ACK", Need.INFO)
def info_export_before_ack(server: Server) -> None:
    for option in (Option.INFO, Option.GO):
        shake = server.shake()
        answer = shake.info(server.name, 3) if option == Option.INFO else shake.go(server.name, 3)
        answer.must(Rep.ACK).told()


@check("H12", Tag.STATES, Group.INFO, _EXPORT, "INFO_EXPORT tells the size and flags that EXPORT_NAME tells", Need.INFO)
def info_tells_what_export_name_tells(server: Server) -> None:
    shake = server.shake()
    try:
        old = shake.export_name(server.name, zeroes=not shake.offered & NO_ZEROES)
    except Gone:
        raise NotOffered("the server refuses EXPORT_NAME") from None
    for answer in (server.shake().info(server.name, Info.BLOCK_SIZE), server.shake().go(server.name, Info.BLOCK_SIZE)):
        told = answer.must(Rep.ACK).told()
        if (told.size, told.flags) != (old.size, old.flags):
            came = f"{told.size} and {told.flags:#06x} from {option_name(answer.option)}"
            raise Failed(f"size {old.size} and flags {old.flags:#06x}", came, server.evidence)


@check("H13", Tag.MUST, Group.INFO, _GO, "Information requests that are unknown are ignored", Need.INFO)
def unknown_information(server: Server) -> None:
    shake = server.shake()
    answer = shake.info(server.name, 0x7E57, Info.BLOCK_SIZE, 0xFFFF).must(Rep.ACK)
    if [kind for kind, _ in answer.infos() if kind in (0x7E57, 0xFFFF)]:
        raise Failed("no reply to an unknown information request", "one", shake.link.came)


@check(
    "H14",
    Tag.MUST,
    Group.INFO,
    "Option reply types: NBD_INFO_BLOCK_SIZE",
    "BLOCK_SIZE is told when asked for, unless one byte can be read anywhere",
    Need.INFO,
    Need.DATA,
)
def block_size_if_not_default(server: Server) -> None:
    if server.facts.minimum:
        return
    session = server.enter()
    reply = session.ask(Command.READ, 1, 1)
    if reply.error:
        raise Failed("NBD_INFO_BLOCK_SIZE, or one byte read at offset 1", reply.name, session.link.came)


@check(
    "H15",
    Tag.MAY,
    Group.INFO,
    _INFO,
    "NAME and DESCRIPTION are strings; each comes once at most",
    Need.INFO,
)
def name_and_description(server: Server) -> None:
    answer = server.shake().info(server.name, Info.NAME, Info.DESCRIPTION, Info.BLOCK_SIZE).must(Rep.ACK)
    kinds = [kind for kind, _ in answer.infos()]
    if len(kinds) != len(set(kinds)):
        raise Failed("each information type once", f"types {kinds}")
    texts = [data for kind, data in answer.infos() if kind in (Info.NAME, Info.DESCRIPTION)]
    if not texts:
        raise NotOffered("the server tells neither")
    for text in texts:
        if not _wire.is_string(text):
            raise Failed("a string", "other bytes", text)


@check("H16", Tag.STATES, Group.INFO, _GO, "INFO and GO of an unknown export are answered by UNKNOWN", Need.NAMES)
def unknown_export(server: Server) -> None:
    for answer in _of_unknown(server):
        answer.must(OptionError.UNKNOWN, OptionError.POLICY, OptionError.TLS_REQD)


@check("H17", Tag.SHOULD, Group.INFO, _GO, "No INFO reply comes before that UNKNOWN", Need.INFO, Need.NAMES)
def nothing_told_of_an_unknown_export(server: Server) -> None:
    for answer in _of_unknown(server):
        if answer.kind == OptionError.UNKNOWN and answer.parts:
            raise Failed("no NBD_REP_INFO of an unknown export", f"{len(answer.parts)} of them")


def _of_unknown(server: Server) -> list[Answer]:
    name = server.unknown_name
    return [server.shake().info(name, Info.BLOCK_SIZE), server.shake().go(name, Info.BLOCK_SIZE)]


@check("H18", Tag.MUST, Group.INFO, _GO, "GO right after INFO with the same parameters tells the same", Need.INFO)
def go_tells_what_info_told(server: Server) -> None:
    for structured in (False, True):
        shake = server.shake()
        if structured:
            shake.structured()
        asked = (Info.NAME, Info.DESCRIPTION, Info.BLOCK_SIZE)
        first = sorted(shake.info(server.name, *asked).must(Rep.ACK).infos())
        second = sorted(shake.go(server.name, *asked).must(Rep.ACK).infos())
        if first != second:
            raise Failed(f"from NBD_OPT_GO {_shown(first)}", _shown(second), shake.link.came)


def _shown(infos: list[tuple[int, bytes]]) -> str:
    """Types and payloads, for people."""
    return ", ".join(f"information {kind}: {data.hex()}" for kind, data in infos)


@check("H20", Tag.MUST, Group.INFO, _GO, "BLOCK_SIZE_REQD never answers a client that asked for BLOCK_SIZE", Need.INFO)
def no_demand_of_what_was_asked(server: Server) -> None:
    for answer in (server.shake().info(server.name, Info.BLOCK_SIZE), server.shake().go(server.name, Info.BLOCK_SIZE)):
        if answer.kind == OptionError.BLOCK_SIZE_REQD:
            raise Failed("any other answer", answer.name)


@check(
    "H21",
    Tag.SHOULD,
    Group.INFO,
    _GO,
    "BLOCK_SIZE_REQD comes with stricter sizes only, and after BLOCK_SIZE was told",
    Need.INFO,
)
def demand_comes_with_the_sizes(server: Server) -> None:
    answer = server.shake().go(server.name)
    if answer.kind != OptionError.BLOCK_SIZE_REQD:
        return
    told = dict(answer.infos())
    if Info.BLOCK_SIZE not in told:
        raise Failed("NBD_INFO_BLOCK_SIZE before NBD_REP_ERR_BLOCK_SIZE_REQD", "none")
    if int.from_bytes(told[Info.BLOCK_SIZE][:4]) == 1 and int.from_bytes(told[Info.BLOCK_SIZE][8:]) >= 1 << 25:
        raise Failed("no demand of default sizes", answer.name, told[Info.BLOCK_SIZE])


@check(
    "H22",
    Tag.STATES,
    Group.INFO,
    _GO,
    "After a refused GO another one may follow",
    Need.INFO,
    Need.NAMES,
)
def another_go_after_a_refused_one(server: Server) -> None:
    shake = server.shake()
    shake.go(server.unknown_name, Info.BLOCK_SIZE).must_be_error()
    shake.go(server.name, Info.BLOCK_SIZE).must(Rep.ACK).told()


@check(
    "H22",
    Tag.STATES,
    Group.INFO,
    "Option types: NBD_OPT_SET_META_CONTEXT",
    "INFO and a refused GO leave the selected contexts as they are",
    Need.NAMES,
    Need.ALLOCATION,
    Need.DATA,
)
def contexts_outlive_a_refused_go(server: Server) -> None:
    shake = server.shake()
    shake.structured()
    selected = shake.select(server.name, "base:allocation").must(Rep.ACK).contexts()
    shake.info(server.name, Info.BLOCK_SIZE).must(Rep.ACK)
    shake.go(server.unknown_name, Info.BLOCK_SIZE).must_be_error()
    session = server.go(shake, structured=False)
    reply = session.ask(Command.BLOCK_STATUS, 0, session.unit).must("BLOCK_STATUS with base:allocation selected", 0)
    if Kind.BLOCK_STATUS not in {chunk.type for chunk in reply.chunks}:
        raise Failed(f"a status chunk for context {selected}", "none", session.link.came)
