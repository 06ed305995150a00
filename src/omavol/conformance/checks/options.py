"""Options as such: unknown ones, absurd ones, LIST, ABORT, and data where there is to be none."""

from __future__ import annotations

import struct

from omavol import _wire
from omavol.conformance.facts import Need
from omavol.conformance.numbers import Rep
from omavol.conformance.server import Server
from omavol.conformance.shake import contexts_data, info_data, option_bytes
from omavol.conformance.table import Group, Tag, check
from omavol.conformance.verdict import Failed, Gone, NotOffered, Silent
from omavol.nbd.wire import Option, OptionError

_BASELINE = "Baseline"
_LIST = "Option types: NBD_OPT_LIST"
_ABORT = "Option types: NBD_OPT_ABORT"
_STRUCTURED = "Option types: NBD_OPT_STRUCTURED_REPLY"
_INFO = "Option types: NBD_OPT_INFO and NBD_OPT_GO"
_NOT_KNOWN = (OptionError.UNSUP,)


@check("H8", Tag.MUST, Group.OPTIONS, _BASELINE, "An unknown option is answered by UNSUP", Need.FIXED)
def unknown_option(server: Server) -> None:
    for option in (0x7E57, 0xFFFFFFFF):
        server.shake().ask(option).must(OptionError.UNSUP)


@check(
    "H8", Tag.MUST, Group.OPTIONS, _BASELINE, "An unknown option's data is skipped and the next one parses", Need.FIXED
)
def unknown_option_with_data(server: Server) -> None:
    shake = server.shake()
    for length in (1, 1000, 4096):
        shake.ask(0x7E57, bytes(length)).must(OptionError.UNSUP)


@check(
    "H11",
    Tag.HOUSE,
    Group.OPTIONS,
    "Option reply types: NBD_REP_ERR_TOO_BIG",
    "An absurd length of an option is refused or ends the connection, and is not waited for",
    Need.FIXED,
    hostile=True,
)
def absurd_length(server: Server) -> None:
    for option in (0x7E57, Option.GO, Option.LIST):
        shake = server.shake()
        shake.link.say(option_bytes(option, bytes(65536), 0xFFFFFFFF))
        try:
            shake.hear(option).must_be_error()
        except Gone:
            continue
        except Silent:
            raise Failed("an error or the end", "nothing: it waits for 4 GiB") from None


@check(
    "H11",
    Tag.HOUSE,
    Group.OPTIONS,
    "Conventions",
    "A name length of 2^32-1 is refused or ends the connection (CVE-2022-26495)",
    Need.FIXED,
    hostile=True,
)
def absurd_name_length(server: Server) -> None:
    for option in (Option.INFO, Option.GO, Option.LIST_META_CONTEXT):
        shake = server.shake()
        shake.say(option, struct.pack(">I", 0xFFFFFFFF) + b"name")
        try:
            shake.hear(option).must_be_error()
        except Gone:
            continue


@check(
    "H10",
    Tag.HOUSE,
    Group.OPTIONS,
    _INFO,
    "INFO and GO whose lengths do not add up are refused, and the session goes on",
    Need.INFO,
    hostile=True,
)
def info_that_does_not_add_up(server: Server) -> None:
    good = info_data(server.name)
    for option in (Option.INFO, Option.GO):
        for data in (b"", good[:-1], good + b"\0", struct.pack(">I", len(good)) + good[4:]):
            shake = server.shake()
            shake.ask(option, data).must_be_error()
            shake.still_answers("a malformed option")


@check(
    "H10",
    Tag.HOUSE,
    Group.OPTIONS,
    "Conventions",
    "A name that is no string (NUL, no UTF-8, over 4096 bytes) is refused",
    Need.INFO,
    Need.NAMES,
    hostile=True,
)
def name_that_is_no_string(server: Server) -> None:
    for name in (b"a\0b", b"\xff\xfe", b"n" * 4097):
        try:
            server.shake().info(name).must_be_error()
        except Gone:
            continue


@check(
    "H10",
    Tag.HOUSE,
    Group.OPTIONS,
    "Option types: NBD_OPT_SET_META_CONTEXT",
    "SET_META_CONTEXT whose lengths do not add up is refused",
    Need.CONTEXTS,
    hostile=True,
)
def contexts_that_do_not_add_up(server: Server) -> None:
    good = contexts_data(server.name, ["base:allocation"])
    for data in (b"", good[:-1], good + b"\0"):
        shake = server.shake()
        shake.structured()
        shake.ask(Option.SET_META_CONTEXT, data).must_be_error()
        shake.still_answers("a malformed option")


@check(
    "H23",
    Tag.MUST,
    Group.OPTIONS,
    _LIST,
    "LIST gives a SERVER reply for each export, then ACK; a server may refuse it (H24)",
    Need.FIXED,
)
def list_of_exports(server: Server) -> None:
    answer = server.shake().ask(Option.LIST)
    if answer.kind in _NOT_KNOWN:
        raise Failed("an answer to NBD_OPT_LIST, a baseline of all implementations", answer.name)
    for data in answer.of(Rep.SERVER):
        length = int.from_bytes(data[:4])
        if len(data) < 4 or length > len(data) - 4:
            raise Failed("a name that fits its NBD_REP_SERVER", f"a length of {length} in {len(data)} bytes", data)
        if not (_wire.is_string(data[4 : 4 + length]) and _wire.is_string(data[4 + length :])):
            raise Failed("strings in NBD_REP_SERVER", "other bytes", data)
    if answer.ok and answer.data:
        raise Failed("NBD_REP_ACK without data", f"{len(answer.data)} bytes", answer.data)


@check(
    "H23", Tag.STATES, Group.OPTIONS, "Option reply types: NBD_REP_SERVER", "A listed name is one that INFO knows",
    Need.FIXED, Need.INFO,
)  # fmt: skip
def listed_names_are_known(server: Server) -> None:
    if not server.facts.exports:
        raise NotOffered("the server lists no export")
    for name in server.facts.exports[:8]:
        server.shake().info(name.encode()).must(
            Rep.ACK, OptionError.POLICY, OptionError.TLS_REQD, OptionError.BLOCK_SIZE_REQD
        )


@check("H25", Tag.SHOULD, Group.OPTIONS, _LIST, "LIST with data is answered by INVALID", Need.FIXED)
def list_with_data(server: Server) -> None:
    shake = server.shake()
    answer = shake.ask(Option.LIST, b"data")
    if server.facts.exports is None and answer.kind == OptionError.POLICY:
        raise NotOffered("the server refuses LIST with or without data")
    answer.must(OptionError.INVALID)
    shake.still_answers("LIST with data")


@check(
    "H25",
    Tag.SHOULD,
    Group.OPTIONS,
    _STRUCTURED,
    "STRUCTURED_REPLY with data is answered by INVALID",
    Need.STRUCTURED,
)
def structured_with_data(server: Server) -> None:
    shake = server.shake()
    shake.ask(Option.STRUCTURED_REPLY, b"data").must(OptionError.INVALID)
    shake.still_answers("STRUCTURED_REPLY with data")


@check("H26", Tag.MUST, Group.OPTIONS, _ABORT, "ABORT is answered by ACK", Need.FIXED)
def abort(server: Server) -> None:
    server.shake().ask(Option.ABORT).must(Rep.ACK)


@check("H27", Tag.SHOULD, Group.OPTIONS, _ABORT, "Data with ABORT is ignored: ACK", Need.FIXED)
def abort_with_data(server: Server) -> None:
    server.shake().ask(Option.ABORT, b"farewell").must(Rep.ACK)


@check(
    "H27",
    Tag.SHOULD,
    Group.OPTIONS,
    _ABORT,
    "A client that sends ABORT and closes without waiting harms nobody",
    Need.FIXED,
    hostile=True,
)
def abort_and_gone(server: Server) -> None:
    shake = server.shake()
    shake.say(Option.ABORT)
    shake.link.close()


@check("H28", Tag.HOUSE, Group.OPTIONS, _ABORT, "After the ACK of ABORT the server closes too", Need.FIXED)
def closes_after_abort(server: Server) -> None:
    shake = server.shake()
    shake.say(Option.ABORT)
    try:
        shake.hear(Option.ABORT)
    except Gone:
        return  # closed at once: H26 has that
    shake.link.must_end("the end of the connection after NBD_OPT_ABORT")


@check(
    "X54",
    Tag.HOUSE,
    Group.OPTIONS,
    "Fixed newstyle negotiation",
    "A garbled handshake harms nobody else",
    hostile=True,
)
def garbled_handshake(server: Server) -> None:
    for data in (bytes(64), b"\xff" * 64, option_bytes(Option.GO, b"\xff" * 40)[4:]):
        shake = server.plain()
        shake.link.say(data)
        shake.link.close()
    server.greeted().link.close()
    half = server.plain()
    half.link.say(option_bytes(Option.GO, info_data(server.name))[:21])
    half.link.close()
