"""The handshake as a client says it, right or wrong, and what the server answers, judged by its form."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from omavol import _wire
from omavol.conformance.link import Link
from omavol.conformance.numbers import (
    FIXED_NEWSTYLE,
    GREETING,
    NO_ZEROES,
    OPTION_MAGIC,
    REPLY_MAGIC,
    Info,
    Rep,
    option_name,
    rep_name,
)
from omavol.conformance.verdict import Failed
from omavol.nbd.wire import Option, OptionError

__all__ = ["Answer", "Shake", "Told", "contexts_data", "info_data", "option_bytes"]

ERROR = 1 << 31  # the bit that all errors have
_MOST_REPLIES = 100_000  # to one option
_LONGEST = 1 << 20  # bytes of one option reply; a name and a description fit many times


def option_bytes(option: int, data: bytes = b"", length: int | None = None) -> bytes:
    """An option; `length` is what its header says where that is not the truth."""
    return OPTION_MAGIC + struct.pack(">II", option, len(data) if length is None else length) + data


def info_data(name: bytes, requests: Sequence[int] = ()) -> bytes:
    """The data of INFO and GO."""
    return struct.pack(f">I{len(name)}sH{len(requests)}H", len(name), name, len(requests), *requests)


def contexts_data(name: bytes, queries: Sequence[str | bytes]) -> bytes:
    """The data of LIST_META_CONTEXT and SET_META_CONTEXT."""
    said = [query.encode() if isinstance(query, str) else query for query in queries]
    data = struct.pack(f">I{len(name)}sI", len(name), name, len(said))
    return data + b"".join(struct.pack(">I", len(query)) + query for query in said)


@dataclass(frozen=True)
class Told:
    """What the answer to INFO, GO or EXPORT_NAME tells; block sizes are 0 where they are not told."""

    size: int
    flags: int
    minimum: int = 0
    preferred: int = 0
    maximum: int = 0
    infos: tuple[tuple[int, bytes], ...] = ()


@dataclass(frozen=True)
class Answer:
    """Every reply to one option: `parts` in order, and the type and data of the last one."""

    option: int
    parts: tuple[tuple[int, bytes], ...]
    kind: int
    data: bytes

    @property
    def ok(self) -> bool:
        return self.kind == Rep.ACK

    @property
    def name(self) -> str:
        return rep_name(self.kind)

    def of(self, kind: int) -> list[bytes]:
        """The data of the replies of one type."""
        return [data for each, data in self.parts if each == kind]

    def must(self, *kinds: int) -> Answer:
        """Fail unless the last reply has one of these types."""
        if self.kind not in kinds:
            wanted = " or ".join(map(rep_name, kinds))
            said = f" ({self.data.decode(errors='replace')})" if self.data else ""
            raise Failed(f"{wanted} to {option_name(self.option)}", self.name + said)
        return self

    def must_be_error(self) -> Answer:
        if not self.kind & ERROR:
            raise Failed(f"an error to {option_name(self.option)}", self.name)
        return self

    def contexts(self) -> dict[str, int]:
        """The META_CONTEXT replies: names and ids."""
        found: dict[str, int] = {}
        for data in self.of(Rep.META_CONTEXT):
            if len(data) < 4 or not _wire.is_string(data[4:]):
                raise Failed("an id and a string in NBD_REP_META_CONTEXT", f"{len(data)} bytes", data)
            found[data[4:].decode()] = int.from_bytes(data[:4])
        return found

    def infos(self) -> tuple[tuple[int, bytes], ...]:
        """The INFO replies: type and payload."""
        found = []
        for data in self.of(Rep.INFO):
            if len(data) < 2:
                raise Failed("an information type in NBD_REP_INFO", f"{len(data)} bytes", data)
            found.append((int.from_bytes(data[:2]), data[2:]))
        return tuple(found)

    def told(self) -> Told:
        """What an accepted INFO or GO tells of the export; lengths are judged."""
        infos = self.infos()
        sizes = {Info.EXPORT: 12, Info.BLOCK_SIZE: 14}
        for kind, data in infos:
            if kind in sizes and len(data) + 2 != sizes[Info(kind)]:
                wanted = f"a length of {sizes[Info(kind)]} for NBD_INFO_{Info(kind).name}"
                raise Failed(wanted, f"a length of {len(data) + 2}", data)
        by_kind = dict(infos)
        if Info.EXPORT not in by_kind:
            raise Failed("NBD_INFO_EXPORT before NBD_REP_ACK", "NBD_REP_ACK without it")
        size, flags = struct.unpack(">QH", by_kind[Info.EXPORT])
        minimum, preferred, maximum = struct.unpack(">III", by_kind.get(Info.BLOCK_SIZE, bytes(12)))
        return Told(size, flags, minimum, preferred, maximum, infos)


class Shake:
    """A session in the handshake, past its greeting."""

    def __init__(self, link: Link) -> None:
        self.link = link
        data = link.hear(16)
        if data[:8] != GREETING:
            raise Failed("the magic NBDMAGIC", "another one", data)
        if data[8:] != OPTION_MAGIC:
            raise Failed("the magic IHAVEOPT", "another one", data)
        self.offered = int.from_bytes(link.hear(2))

    def flags(self, flags: int | None = None) -> Shake:
        """Say the client flags; without an argument those that the server offers."""
        said = self.offered & (FIXED_NEWSTYLE | NO_ZEROES) if flags is None else flags
        self.link.say(struct.pack(">I", said))
        return self

    def say(self, option: int, data: bytes = b"", length: int | None = None) -> None:
        """Send an option and wait for nothing."""
        self.link.say(option_bytes(option, data, length))

    def ask(self, option: int, data: bytes = b"") -> Answer:
        """Send an option and hear every reply to it."""
        self.say(option, data)
        return self.hear(option)

    def hear(self, option: int) -> Answer:
        """Every reply to an option that was sent, the last one apart."""
        parts: list[tuple[int, bytes]] = []
        while len(parts) < _MOST_REPLIES:
            head = self.link.hear(20)
            magic, about, kind, length = struct.unpack(">QIII", head)
            if magic != REPLY_MAGIC:
                raise Failed("the magic of an option reply", "another one", head)
            if about != option:
                raise Failed(f"a reply to {option_name(option)}", f"one to {option_name(about)}", head)
            if length > _LONGEST:
                raise Failed("an option reply that has an end", f"one of {length} bytes", head)
            data = self.link.hear(length)
            if kind & ERROR:
                if not _wire.is_string(data):
                    raise Failed("an error message of at most 4096 bytes of UTF-8", f"{length} bytes", data)
                return Answer(option, tuple(parts), kind, data)
            if kind == Rep.ACK:
                return Answer(option, tuple(parts), kind, data)
            if kind not in Rep._value2member_map_:
                raise Failed("a reply type of the document", f"type {kind:#x}", head)
            parts.append((kind, data))
        raise Failed("an end of the replies", f"{_MOST_REPLIES} of them")

    def info(self, name: bytes, *requests: int) -> Answer:
        return self.ask(Option.INFO, info_data(name, requests))

    def go(self, name: bytes, *requests: int) -> Answer:
        return self.ask(Option.GO, info_data(name, requests))

    def structured(self) -> bool:
        """Ask for structured replies; whether they are granted."""
        return self.ask(Option.STRUCTURED_REPLY).ok

    def select(self, name: bytes, *queries: str) -> Answer:
        return self.ask(Option.SET_META_CONTEXT, contexts_data(name, queries))

    def list_contexts(self, name: bytes, *queries: str) -> Answer:
        return self.ask(Option.LIST_META_CONTEXT, contexts_data(name, queries))

    def export_name(self, name: bytes, zeroes: bool) -> Told:
        """Enter by EXPORT_NAME; `zeroes`: whether 124 of them are to follow."""
        self.say(Option.EXPORT_NAME, name)
        size, flags = struct.unpack(">QH", self.link.hear(10))
        if zeroes:
            padding = self.link.hear(124)
            if any(padding):
                raise Failed("124 bytes of zero", "other bytes", padding)
        return Told(size, flags)

    def still_answers(self, after: str) -> None:
        """Fail unless the session goes on: an unknown option gets its answer."""
        answer = self.ask(0x7E57)
        if answer.kind not in (OptionError.UNSUP, OptionError.TLS_REQD):
            raise Failed(f"NBD_REP_ERR_UNSUP to an unknown option after {after}", answer.name)
