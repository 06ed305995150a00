"""The greeting, the client's flags, and EXPORT_NAME, the option that cannot be refused by an answer."""

from __future__ import annotations

from omavol.conformance.facts import Need
from omavol.conformance.numbers import FIXED_NEWSTYLE, NO_ZEROES, Info
from omavol.conformance.server import Server
from omavol.conformance.session import Session
from omavol.conformance.shake import Shake, Told
from omavol.conformance.table import Group, Tag, check
from omavol.conformance.verdict import Failed, Gone, NotOffered
from omavol.nbd.wire import Option

_FLAGS = "Handshake flags"
_CLIENT = "Client flags"
_NAME = "Option types: NBD_OPT_EXPORT_NAME"


@check("H1", Tag.MUST, Group.GREETING, _FLAGS, "The handshake flags are FIXED_NEWSTYLE and NO_ZEROES and no others")
def handshake_flags(server: Server) -> None:
    shake = server.greeted()
    if shake.offered & ~(FIXED_NEWSTYLE | NO_ZEROES):
        raise Failed("no flags but bits 0 and 1", f"{shake.offered:#06x}", shake.link.came)
    if not shake.offered & FIXED_NEWSTYLE:
        raise Failed("NBD_FLAG_FIXED_NEWSTYLE, a baseline of all implementations", f"{shake.offered:#06x}")


@check("H2", Tag.MUST, Group.GREETING, _CLIENT, "An unknown client flag ends the connection", hostile=True)
def unknown_client_flag(server: Server) -> None:
    shake = server.greeted()
    shake.flags(shake.offered & 3 | 1 << 20)
    _must_drop(shake, "the end of the connection after client flag bit 20")


@check("H3", Tag.MUST, Group.GREETING, _CLIENT, "A client flag that was not offered ends the connection", hostile=True)
def client_flag_not_offered(server: Server) -> None:
    shake = server.greeted()
    missing = ~shake.offered & (FIXED_NEWSTYLE | NO_ZEROES)
    if not missing:
        raise NotOffered("the server offers both flags")
    shake.flags(shake.offered & 3 | missing)
    _must_drop(shake, f"the end of the connection after client flags {missing:#x}, which were not offered")


def _must_drop(shake: Shake, expected: str) -> None:
    """An option follows, so that a server which does not drop shows it at once."""
    shake.say(Option.ABORT)
    shake.link.must_end(expected)


@check(
    "H4",
    Tag.SHOULD,
    Group.GREETING,
    "Maximum interoperability",
    "EXPORT_NAME is served, also to a client without FIXED_NEWSTYLE",
)
def export_name_is_served(server: Server) -> None:
    _enters_by_name(server, server.facts.offered & (FIXED_NEWSTYLE | NO_ZEROES))
    if not server.demand_tls:
        _enters_by_name(server, 0)


def _enters_by_name(server: Server, flags: int) -> Session:
    shake = server.shake(flags)
    try:
        told = shake.export_name(server.name, zeroes=not flags & NO_ZEROES)
    except Gone:
        raise Failed(f"the export by NBD_OPT_EXPORT_NAME, client flags {flags}", "the end of the connection") from None
    session = Session(shake.link, told, structured=False, extended=False, contexts={})
    if told.size:
        session.still_answers()
    return session


@check(
    "H5",
    Tag.HOUSE,
    Group.GREETING,
    _CLIENT,
    "Another option of a client without FIXED_NEWSTYLE ends the connection (a MAY lets a server honour it)",
)
def other_option_without_fixed(server: Server) -> None:
    shake = server.plain(0)
    shake.say(Option.LIST)
    shake.link.must_end("the end of the connection")


@check(
    "H6",
    Tag.MUST,
    Group.GREETING,
    _NAME,
    "EXPORT_NAME of an unknown export ends the connection",
    Need.NAMES,
    hostile=True,
)
def unknown_export_name(server: Server) -> None:
    shake = server.shake()
    shake.say(Option.EXPORT_NAME, server.unknown_name)
    shake.link.must_end("the end of the connection after EXPORT_NAME of an unknown export")


@check("H7", Tag.MUST, Group.GREETING, _FLAGS, "No 124 zero bytes follow EXPORT_NAME where NO_ZEROES was agreed")
def no_zeroes(server: Server) -> None:
    if not server.facts.offered & NO_ZEROES:
        raise NotOffered("no NO_ZEROES")
    _enters_by_name(server, server.facts.offered & (FIXED_NEWSTYLE | NO_ZEROES))


@check("H7", Tag.STATES, Group.GREETING, "Newstyle negotiation", "124 zero bytes follow EXPORT_NAME without NO_ZEROES")
def zeroes_without_the_flag(server: Server) -> None:
    _enters_by_name(server, server.facts.offered & FIXED_NEWSTYLE)


@check(
    "H7",
    Tag.MUST,
    Group.GREETING,
    "Option types: NBD_OPT_INFO and NBD_OPT_GO",
    "No zero bytes follow GO, NO_ZEROES or not",
    Need.INFO,
    Need.DATA,
)
def no_zeroes_after_go(server: Server) -> None:
    shake = server.shake(server.facts.offered & FIXED_NEWSTYLE)
    told: Told = shake.go(server.name, Info.BLOCK_SIZE).must(1).told()
    Session(shake.link, told, structured=False, extended=False, contexts={}).still_answers()
