"""LIST_META_CONTEXT and SET_META_CONTEXT: wildcards, namespaces, and what one selection does to another."""

from __future__ import annotations

import struct

from omavol.conformance.facts import Need
from omavol.conformance.numbers import Rep
from omavol.conformance.server import Server
from omavol.conformance.session import Session
from omavol.conformance.shake import Answer, Shake, contexts_data
from omavol.conformance.table import Group, Tag, check
from omavol.conformance.verdict import Failed, Gone, NotOffered
from omavol.nbd.wire import Chunk as Kind
from omavol.nbd.wire import Command, Option, OptionError

ALLOCATION = "base:allocation"
_LIST = "Option types: NBD_OPT_LIST_META_CONTEXT"
_SET = "Option types: NBD_OPT_SET_META_CONTEXT"
_BASE = "The `base:` metadata namespace"
_STRANGER = "x-nobody-knows-this:leaf"


def _shake(server: Server) -> Shake:
    shake = server.shake()
    shake.structured()
    return shake


def _listed(server: Server, *queries: str) -> Answer:
    return _shake(server).list_contexts(server.name, *queries)


def _selected(server: Server, *queries: str) -> Answer:
    return _shake(server).select(server.name, *queries)


@check("H9", Tag.MUST, Group.CONTEXTS, _LIST, "LIST_META_CONTEXT that reads beyond its data: INVALID", Need.CONTEXTS)
def list_that_does_not_add_up(server: Server) -> None:
    name = struct.pack(">I", len(server.name)) + server.name
    for data in (
        name + struct.pack(">II", 1, 100) + b"base:",  # a query that ends beyond
        name + struct.pack(">I", 2) + struct.pack(">I", 5) + b"base:",  # two queries, one there
        struct.pack(">I", len(server.name) + 50) + server.name + struct.pack(">I", 0),  # a name that ends beyond
    ):
        shake = _shake(server)
        shake.ask(Option.LIST_META_CONTEXT, data).must(OptionError.INVALID)
        shake.still_answers("a malformed LIST_META_CONTEXT")


@check("H29", Tag.SHOULD, Group.CONTEXTS, _SET, "SET_META_CONTEXT before structured replies: INVALID", Need.CONTEXTS)
def set_before_structured(server: Server) -> None:
    answer = server.shake().select(server.name, ALLOCATION)
    answer.must(OptionError.INVALID, OptionError.EXT_HEADER_REQD)


@check(
    "H30", Tag.MAY, Group.CONTEXTS, _LIST, "LIST_META_CONTEXT before structured replies: INVALID or the list",
    Need.CONTEXTS,
)  # fmt: skip
def list_before_structured(server: Server) -> None:
    answer = server.shake().list_contexts(server.name)
    answer.must(Rep.ACK, OptionError.INVALID, OptionError.EXT_HEADER_REQD, OptionError.UNSUP, OptionError.POLICY)


@check(
    "H31", Tag.STATES, Group.CONTEXTS, _SET, "SET_META_CONTEXT replaces what was selected before",
    Need.ALLOCATION, Need.DATA,
)  # fmt: skip
def set_replaces(server: Server) -> None:
    shake = _shake(server)
    shake.select(server.name, ALLOCATION).must(Rep.ACK)
    shake.select(server.name).must(Rep.ACK)
    _no_status(server.go(shake, structured=False), "no context: the last SET_META_CONTEXT selected none")


@check(
    "H31", Tag.STATES, Group.CONTEXTS, _SET, "SET_META_CONTEXT replaces it also when it fails",
    Need.ALLOCATION, Need.DATA,
)  # fmt: skip
def failed_set_replaces(server: Server) -> None:
    shake = _shake(server)
    shake.select(server.name, ALLOCATION).must(Rep.ACK)
    wrong = contexts_data(server.name, [ALLOCATION])[:-3]
    if shake.ask(Option.SET_META_CONTEXT, wrong).ok:
        raise NotOffered("the server does not refuse a malformed SET_META_CONTEXT (H10)")
    _no_status(server.go(shake, structured=False), "no context: the last SET_META_CONTEXT failed")


def _no_status(session: Session, why: str) -> None:
    """Fail where BLOCK_STATUS is answered by a status; an error or an end are right (the client broke a MUST)."""
    try:
        reply = session.ask(Command.BLOCK_STATUS, 0, session.unit)
    except Gone:
        return
    if Kind.BLOCK_STATUS in {chunk.type for chunk in reply.chunks}:
        raise Failed(why, "a status chunk", session.link.came)


@check("H32", Tag.MUST, Group.CONTEXTS, _LIST, "LIST_META_CONTEXT without a query gives every context", Need.CONTEXTS)
def list_gives_all(server: Server) -> None:
    names = set(_listed(server).must(Rep.ACK).contexts())
    for name in ("base:allocation", "qemu:allocation-depth"):
        namespace = name.split(":")[0]
        if name in _selected(server, name).contexts() and not names & {name, f"{namespace}:"}:
            raise Failed(f"{name} in the list, since it can be selected", f"{sorted(names)}")


@check("H33", Tag.MUST, Group.CONTEXTS, _SET, "SET_META_CONTEXT without a query selects none", Need.CONTEXTS)
def set_of_nothing(server: Server) -> None:
    answer = _selected(server).must(Rep.ACK)
    if answer.contexts():
        raise Failed("no NBD_REP_META_CONTEXT", f"{answer.contexts()}")


@check(
    "H34", Tag.MUST, Group.CONTEXTS, _SET, "Each selected context gets one reply, with an id of its own, then ACK",
    Need.CONTEXTS,
)  # fmt: skip
def selected_contexts_have_ids(server: Server) -> None:
    answer = _selected(server, *server.facts.contexts).must(Rep.ACK)
    found = answer.contexts()
    if len(found) != len(answer.of(Rep.META_CONTEXT)):
        raise Failed("one NBD_REP_META_CONTEXT for each context", f"{len(answer.of(Rep.META_CONTEXT))} for {found}")
    if len(set(found.values())) != len(found):
        raise Failed("an id of its own for each context", f"{found}")
    if strange := set(found) - set(server.facts.contexts):
        raise Failed(f"contexts of {server.facts.contexts}", f"{strange}")


@check("H35", Tag.HOUSE, Group.CONTEXTS, _SET, "A query that is asked twice selects once", Need.ALLOCATION)
def same_query_twice(server: Server) -> None:
    answer = _selected(server, ALLOCATION, ALLOCATION).must(Rep.ACK)
    if len(answer.of(Rep.META_CONTEXT)) != 1:
        raise Failed("one NBD_REP_META_CONTEXT", f"{len(answer.of(Rep.META_CONTEXT))}")


@check("H36", Tag.MUST, Group.CONTEXTS, _BASE, "`base:` lists every context of its namespace", Need.ALLOCATION)
def base_wildcard_lists(server: Server) -> None:
    names = set(_listed(server, "base:").must(Rep.ACK).contexts())
    if ALLOCATION not in names or {name for name in names if not name.startswith("base:")}:
        raise Failed(f"{ALLOCATION} alone", f"{sorted(names)}")


@check("H36", Tag.MUST, Group.CONTEXTS, _BASE, "`base:` selects nothing", Need.CONTEXTS)
def base_wildcard_selects_nothing(server: Server) -> None:
    answer = _selected(server, "base:").must(Rep.ACK)
    if answer.contexts():
        raise Failed("no context for `base:`", f"{answer.contexts()}")


@check("H37", Tag.MUST, Group.CONTEXTS, _BASE, "An unknown leaf of `base:` is ignored", Need.ALLOCATION)
def unknown_leaf_of_base(server: Server) -> None:
    for answer in (_selected(server, "base:nobody", ALLOCATION), _listed(server, "base:nobody", ALLOCATION)):
        if set(answer.must(Rep.ACK).contexts()) != {ALLOCATION}:
            raise Failed(f"{ALLOCATION} alone", f"{answer.contexts()}")


@check("H38", Tag.MUST, Group.CONTEXTS, _LIST, "LIST_META_CONTEXT ignores unknown namespaces: just ACK", Need.CONTEXTS)
def list_ignores_unknown_namespaces(server: Server) -> None:
    answer = _listed(server, _STRANGER).must(Rep.ACK)
    if answer.contexts():
        raise Failed("no NBD_REP_META_CONTEXT", f"{answer.contexts()}")


@check("H39", Tag.MAY, Group.CONTEXTS, _SET, "SET_META_CONTEXT may ignore them, too", Need.ALLOCATION)
def set_ignores_unknown_namespaces(server: Server) -> None:
    answer = _selected(server, _STRANGER, ALLOCATION)
    if answer.ok and set(answer.contexts()) != {ALLOCATION}:
        raise Failed(f"{ALLOCATION} alone", f"{answer.contexts()}")


@check("H40", Tag.MAY, Group.CONTEXTS, _LIST, "A query without a colon: INVALID, or ignored", Need.CONTEXTS)
def query_without_a_colon(server: Server) -> None:
    for answer in (_listed(server, "nocolon"), _selected(server, "nocolon")):
        answer.must(OptionError.INVALID, Rep.ACK)
        if answer.contexts():
            raise Failed("no NBD_REP_META_CONTEXT", f"{answer.contexts()}")


@check(
    "H41",
    Tag.STATES,
    Group.CONTEXTS,
    "Option reply types: NBD_REP_ERR_UNKNOWN",
    "LIST_ and SET_META_CONTEXT of an unknown export: UNKNOWN",
    Need.CONTEXTS,
    Need.NAMES,
)
def contexts_of_an_unknown_export(server: Server) -> None:
    for option in (Option.LIST_META_CONTEXT, Option.SET_META_CONTEXT):
        answer = _shake(server).ask(option, contexts_data(server.unknown_name, [ALLOCATION]))
        answer.must(OptionError.UNKNOWN, OptionError.POLICY, OptionError.TLS_REQD)


@check(
    "H42",
    Tag.SHOULD,
    Group.CONTEXTS,
    "Metadata querying",
    "Contexts that were set for another export name do not count: EINVAL",
    Need.ALLOCATION,
    Need.TWO_EXPORTS,
    Need.DATA,
)
def contexts_of_another_export(server: Server) -> None:
    other = next(name for name in server.facts.exports or () if name.encode() != server.name)
    shake = _shake(server)
    shake.select(other.encode(), ALLOCATION)
    _no_status(server.go(shake, structured=False), "no status of this export: the contexts were set for another")
