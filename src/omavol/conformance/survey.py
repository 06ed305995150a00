"""The look at a server before it is judged: every question once, each answer believed for now."""

from __future__ import annotations

from omavol.conformance.facts import Facts, TlsMode
from omavol.conformance.numbers import FIXED_NEWSTYLE, NO_ZEROES, Info, Rep
from omavol.conformance.server import Server
from omavol.conformance.shake import Shake, Told
from omavol.conformance.verdict import CannotRun, Failed, Gone, Silent
from omavol.nbd.wire import Option, OptionError

__all__ = ["survey"]


def survey(server: Server) -> Facts:
    """Ask the server what it has; CannotRun with one line where the export cannot be entered at all."""
    try:
        facts = _survey(server)
    except (Failed, Gone, Silent) as error:
        raise CannotRun(f"{server.uri}: no export to judge: {error}") from error
    finally:
        server.release()
    return facts


def _survey(server: Server) -> Facts:
    offered = server.greeted().offered
    tls = _tls(server) if offered & FIXED_NEWSTYLE else TlsMode.OFF
    if tls == TlsMode.FORCED and not server.demand_tls:
        raise CannotRun(f"{server.uri}: the server demands TLS: judge it by an nbds:// URI")
    info = _knows_info(server)
    structured = info and server.shake().structured()
    extended = info and server.shake().ask(Option.EXTENDED_HEADERS).ok
    told = _told(server, info, structured)
    return Facts(
        offered=offered,
        tls=tls,
        info=info,
        any_name=info and _takes_any_name(server),
        exports=_list(server.shake()) if offered & FIXED_NEWSTYLE else None,
        structured=structured,
        extended=extended,
        contexts=_contexts(server) if structured else (),
        size=told.size,
        flags=told.flags,
        minimum=told.minimum,
        preferred=told.preferred,
        maximum=told.maximum,
    )


def _tls(server: Server) -> TlsMode:
    """The mode, on connections that stay plain: STARTTLS is granted or not, a plain question is answered or not."""
    if not server.plain().ask(Option.STARTTLS).ok:
        return TlsMode.OFF
    answer = server.plain().ask(Option.LIST)
    return TlsMode.FORCED if answer.kind == OptionError.TLS_REQD else TlsMode.SELECTIVE


def _knows_info(server: Server) -> bool:
    shake = server.shake()
    if not shake.offered & FIXED_NEWSTYLE:
        return False
    answer = shake.info(server.name)
    if answer.ok or answer.kind == OptionError.BLOCK_SIZE_REQD:
        return True
    if answer.kind == OptionError.UNSUP:
        return False
    raise CannotRun(f"{server.uri}: the export cannot be entered: {answer.name} {answer.data.decode()}".rstrip())


def _takes_any_name(server: Server) -> bool:
    try:
        return server.shake().info(server.unknown_name).ok
    except Gone:
        return False  # which H16 will say


def _told(server: Server, info: bool, structured: bool) -> Told:
    shake = server.shake()
    if structured:
        shake.structured()
    if info:
        return shake.go(server.name, Info.BLOCK_SIZE).must(Rep.ACK).told()
    return shake.export_name(server.name, zeroes=not shake.offered & NO_ZEROES)


def _list(shake: Shake) -> tuple[str, ...] | None:
    answer = shake.ask(Option.LIST)
    if not answer.ok:
        return None
    names = []
    for data in answer.of(Rep.SERVER):
        length = int.from_bytes(data[:4])
        names.append(data[4 : 4 + length].decode(errors="replace"))
    return tuple(names)


def _contexts(server: Server) -> tuple[str, ...]:
    """What LIST_META_CONTEXT names and SET_META_CONTEXT selects."""
    shake = server.shake()
    shake.structured()
    listed = shake.list_contexts(server.name)
    if not listed.ok:
        return ()
    names = list(listed.contexts()) or ["base:allocation"]
    selected = shake.select(server.name, *names)
    return tuple(selected.contexts()) if selected.ok else ()
