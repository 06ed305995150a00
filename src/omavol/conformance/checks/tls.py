"""STARTTLS and the three modes. Certificates are nobody's business here: nothing is verified."""

from __future__ import annotations

import ssl
from contextlib import suppress

from omavol.conformance.facts import Need
from omavol.conformance.numbers import Rep
from omavol.conformance.server import Server
from omavol.conformance.session import Session
from omavol.conformance.shake import Answer, Shake, contexts_data, info_data, option_bytes
from omavol.conformance.table import Group, Tag, check
from omavol.conformance.verdict import Failed, Gone, NotOffered, Silent
from omavol.nbd.wire import Command, Option, OptionError

_NOTLS = "NOTLS mode"
_FORCED = "FORCEDTLS mode"
_SELECTIVE = "SELECTIVETLS mode"
_MODES = "Server-side requirements"
_STARTTLS = "Option types: NBD_OPT_STARTTLS"
_VERSIONS = "TLS versions"


def _questions(server: Server) -> list[tuple[int, bytes]]:
    """An option of every kind but STARTTLS, ABORT and EXPORT_NAME."""
    return [
        (Option.LIST, b""),
        (Option.STRUCTURED_REPLY, b""),
        (Option.LIST_META_CONTEXT, contexts_data(server.name, [])),
        (0x7E57, b""),
        (Option.INFO, info_data(server.name)),
        (Option.GO, info_data(server.name)),
    ]


def _never_tls_required(answers: list[Answer]) -> None:
    for answer in answers:
        if answer.kind == OptionError.TLS_REQD:
            raise Failed("any other answer", f"{answer.name} to option {answer.option}")


@check("T2", Tag.MUST, Group.TLS, _MODES, "A client without FIXED_NEWSTYLE gets no TLS", Need.TLS)
def no_tls_without_fixed(server: Server) -> None:
    shake = server.plain(0)
    shake.say(Option.STARTTLS)
    with suppress(Gone):
        if shake.hear(Option.STARTTLS).ok:
            raise Failed("an error, or the end of the connection", "NBD_REP_ACK")


@check("T3", Tag.MUST, Group.TLS, _NOTLS, "Without TLS, STARTTLS is refused by an error other than TLS_REQD",
       Need.FIXED, Need.NO_TLS)  # fmt: skip
def starttls_is_refused(server: Server) -> None:
    shake = server.plain()
    _never_tls_required([shake.ask(Option.STARTTLS).must_be_error()])
    shake.still_answers("a refused STARTTLS")


@check("T3", Tag.MUST, Group.TLS, _NOTLS, "Without TLS, nothing is answered by TLS_REQD", Need.FIXED, Need.NO_TLS)
def nothing_demands_tls(server: Server) -> None:
    _never_tls_required([server.plain().ask(option, data) for option, data in _questions(server)])


@check("T4", Tag.MUST, Group.TLS, _FORCED, "FORCEDTLS: every option but STARTTLS and ABORT gets TLS_REQD", Need.FORCED)
def everything_demands_tls(server: Server) -> None:
    for option, data in _questions(server):
        server.plain().ask(option, data).must(OptionError.TLS_REQD)


@check("T4", Tag.MUST, Group.TLS, _FORCED, "FORCEDTLS: ABORT is answered by ACK", Need.FORCED)
def abort_without_tls(server: Server) -> None:
    server.plain().ask(Option.ABORT).must(Rep.ACK)


@check("T5", Tag.MUST, Group.TLS, _FORCED, "FORCEDTLS: EXPORT_NAME ends the connection", Need.FORCED, hostile=True)
def export_name_without_tls(server: Server) -> None:
    for flags in (server.facts.offered & 3, 0):
        shake = server.plain(flags)
        shake.say(Option.EXPORT_NAME, server.name)
        shake.link.must_end("the end of the connection after EXPORT_NAME without TLS")


@check("T8", Tag.MUST, Group.TLS, _SELECTIVE, "SELECTIVETLS: only INFO and GO may demand TLS", Need.SELECTIVE)
def only_entering_demands_tls(server: Server) -> None:
    questions = [(option, data) for option, data in _questions(server) if option not in (Option.INFO, Option.GO)]
    _never_tls_required([server.plain().ask(option, data) for option, data in questions])


def _secured(server: Server, context: ssl.SSLContext | None = None) -> Shake:
    """A handshake inside TLS."""
    shake = server.plain()
    server.upgrade(shake, context)
    return shake


@check("T10", Tag.MUST, Group.TLS, _FORCED, "Inside TLS, STARTTLS is INVALID, and nothing gets TLS_REQD", Need.TLS)
def starttls_inside_tls(server: Server) -> None:
    shake = _secured(server)
    shake.ask(Option.STARTTLS).must(OptionError.INVALID)
    _never_tls_required([shake.ask(option, data) for option, data in _questions(server)[:-1]])


@check("T11", Tag.MUST, Group.TLS, _STARTTLS, "What was negotiated before TLS does not count",
       Need.SELECTIVE, Need.STRUCTURED, Need.DATA)  # fmt: skip
def nothing_survives_into_tls(server: Server) -> None:
    shake = server.plain()
    shake.ask(Option.STRUCTURED_REPLY).must(Rep.ACK)
    server.upgrade(shake)
    told = shake.go(server.name, 3).must(Rep.ACK).told()
    session = Session(shake.link, told, structured=False, extended=False, contexts={})
    if not session.ask(Command.READ, 0, session.unit).simple:
        raise Failed("a simple reply: structured replies were agreed before TLS alone", "a chunk", session.link.came)


@check("T12", Tag.HOUSE, Group.TLS, _STARTTLS, "Bytes behind STARTTLS are not obeyed inside TLS (CVE-2021-3716)",
       Need.TLS, hostile=True)  # fmt: skip
def bytes_behind_starttls(server: Server) -> None:
    shake = server.plain()
    shake.link.say(option_bytes(Option.STARTTLS) + option_bytes(Option.LIST))
    with suppress(Gone, Silent):
        if not shake.hear(Option.STARTTLS).ok:
            return
        try:
            shake.link.start_tls(server.context(), server.uri.host)
        except Failed:
            return  # the bytes went into the TLS handshake, and spoiled it
        shake.hear(Option.LIST)
        raise Failed("no answer to an option that was sent before TLS", "one, inside TLS", shake.link.came)


@check("T13", Tag.MAY, Group.TLS, _STARTTLS, "STARTTLS with data is refused", Need.TLS)
def starttls_with_data(server: Server) -> None:
    if server.plain().ask(Option.STARTTLS, b"data").ok:
        raise NotOffered("the server ignores the data, as it may")


@check("T14", Tag.MUST, Group.TLS, _FORCED, "A TLS handshake that fails ends the connection", Need.TLS, hostile=True)
def failed_handshake_ends(server: Server) -> None:
    shake = server.plain()
    shake.ask(Option.STARTTLS).must(Rep.ACK)
    shake.link.say(b"this is no ClientHello at all, and never will be one\r\n" * 4)
    try:
        while not shake.link.ends():
            pass  # an alert of TLS may come first
    except Silent:
        raise Failed("the end of the connection", "nothing: it is still open") from None


@check("T16", Tag.MUST, Group.TLS, _VERSIONS, "TLS 1.2 is spoken", Need.TLS)
def tls_1_2(server: Server) -> None:
    _secured(server, server.context(ssl.TLSVersion.TLSv1_2)).ask(Option.LIST)


@check("T17", Tag.SHOULD, Group.TLS, _VERSIONS, "TLS 1.3 is spoken", Need.TLS)
def tls_1_3(server: Server) -> None:
    _secured(server, server.context(ssl.TLSVersion.TLSv1_3)).ask(Option.LIST)


@check("T17", Tag.SHOULD, Group.TLS, _VERSIONS, "TLS 1.1 is not spoken by default", Need.TLS, hostile=True)
def no_tls_1_1(server: Server) -> None:
    shake = server.plain()
    shake.ask(Option.STARTTLS).must(Rep.ACK)
    try:
        shake.link.start_tls(server.context(ssl.TLSVersion.TLSv1_1), server.uri.host)
    except (Failed, Gone):
        return
    raise Failed("a refused handshake", "a session of TLS 1.1")


@check("T18", Tag.MUST, Group.TLS, "Request types: NBD_CMD_DISC", "At DISC TLS is shut down, then the connection",
       Need.TLS)  # fmt: skip
def disc_shuts_tls_down(server: Server) -> None:
    session = server.go(_secured(server), structured=False)
    session.leave()
    try:
        data = session.link.socket.recv(1)
    except ssl.SSLEOFError:
        raise Failed("a close_notify of TLS before the end of the connection", "the end without it") from None
    except (TimeoutError, OSError) as error:
        raise Failed("a close_notify of TLS", f"{error}") from error
    if data:
        raise Failed("the end after NBD_CMD_DISC", "an answer", data)
