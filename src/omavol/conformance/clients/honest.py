"""A server's handshake that keeps every rule, a method an exchange, so that a scenario can change one of them."""

from __future__ import annotations

import select
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

from omavol import _wire
from omavol.conformance.clients.seen import Entered, Seen
from omavol.conformance.numbers import FIXED_NEWSTYLE, GREETING, NO_ZEROES, OPTION_MAGIC, REPLY_MAGIC, Info, Rep
from omavol.nbd.wire import Option, OptionError
from omavol.nbd.wire import TransmissionFlag as Flag

__all__ = ["ALL_FLAGS", "Handshake", "Left", "Offers", "World"]

ALL_FLAGS = (
    *(Flag.HAS_FLAGS, Flag.SEND_FLUSH, Flag.SEND_FUA, Flag.SEND_TRIM, Flag.SEND_WRITE_ZEROES, Flag.SEND_DF),
    *(Flag.CAN_MULTI_CONN, Flag.SEND_CACHE, Flag.SEND_FAST_ZERO),
)
_LONGEST = 1 << 20  # bytes of an option that is read


class Left(Exception):
    """The connection is over: the client left, or this side is done with it."""


@dataclass(frozen=True)
class Offers:
    """What a scenario offers; sizes in bytes."""

    size: int = 4 << 20
    flags: int = int(sum(ALL_FLAGS))
    minimum: int = 1
    preferred: int = 4096
    maximum: int = 1 << 25
    handshake: int = FIXED_NEWSTYLE | NO_ZEROES
    structured: bool = True
    contexts: tuple[str, ...] = ("base:allocation",)
    names: tuple[str, ...] = ("",)


@dataclass
class World:
    """What all connections to one server share: its offers and its disk, of which every second 64 KiB is a hole."""

    offers: Offers = field(default_factory=Offers)
    disk: bytearray = field(default_factory=bytearray)

    def __post_init__(self) -> None:
        if not self.disk:
            block = bytes(range(1, 256)) * 257 + b"\xff"
            pattern = block + bytes(65536)
            size = min(self.offers.size, 64 << 20)
            self.disk = bytearray((pattern * (size // len(pattern) + 1))[:size])


class Handshake:
    """One connection of the server. A thread of its own; `transmit` is what follows (answers.py)."""

    def __init__(self, connected: socket.socket, world: World, seen: Seen, limit: float) -> None:
        self.socket = connected
        self.world = world
        self.offers = world.offers
        self.seen = seen
        self.socket.settimeout(limit)
        self.client_flags = 0
        self.structured = False
        self.selected: dict[str, int] = {}
        self.selected_for: bytes | None = None
        self.sizes_told = False
        self.told: Entered | None = None
        self.said_goodbye = ""

    def say(self, *data: bytes) -> None:
        try:
            self.socket.sendall(b"".join(data))
        except OSError as error:
            raise Left from error

    def hear(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            try:
                piece = self.socket.recv(min(size - len(data), 1 << 20))
            except OSError as error:
                raise Left from error
            if not piece:
                raise Left
            data += piece
        return bytes(data)

    def behind(self) -> bytes:
        """What the client has sent already and nobody has heard yet."""
        if not select.select([self.socket], [], [], 0)[0]:
            return b""
        try:
            return self.socket.recv(64, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except OSError:
            return b""

    def run(self) -> None:
        """Everything, until the connection is over."""
        try:
            self.greet()
            self.haggle()
        except Left:
            pass
        finally:
            self.seen.ends(self.said_goodbye or "closed without a word", self.told is not None)
            self.socket.close()

    def transmit(self) -> None:
        raise NotImplementedError

    def greet(self) -> None:
        self.say(GREETING, OPTION_MAGIC, struct.pack(">H", self.offers.handshake))
        self.client_flags = int.from_bytes(self.hear(4))
        if unknown := self.client_flags & ~(self.offers.handshake & 3):
            self.seen.breach("H2", f"client flags {unknown:#x}, which were not offered or do not exist")
            raise Left

    def haggle(self) -> None:
        """Options until one of them ends the handshake."""
        while self.told is None:
            magic, option, length = struct.unpack(">8sII", self.hear(16))
            if magic != OPTION_MAGIC:
                raise Left
            if length > _LONGEST:
                self.reply(option, OptionError.TOO_BIG)
                raise Left
            data = self.hear(length)
            self.seen.option(option, data, self.behind())
            if not self.client_flags & FIXED_NEWSTYLE and option != Option.EXPORT_NAME:
                raise Left
            self.answer(option, data)
        self.seen.enters(self.told)
        self.transmit()

    def answer(self, option: int, data: bytes) -> None:
        known = Option._value2member_map_
        method = getattr(self, f"opt_{Option(option).name.lower()}", None) if option in known else None
        if method is None:
            self.reply(option, OptionError.UNSUP)
        else:
            method(data)

    def reply(self, option: int, kind: int, data: bytes = b"") -> None:
        self.say(struct.pack(">QIII", REPLY_MAGIC, option, kind, len(data)), data)

    def opt_export_name(self, data: bytes) -> None:
        if not self.knows(data):
            raise Left
        zeroes = b"" if self.client_flags & NO_ZEROES else bytes(124)
        self.say(struct.pack(">QH", self.offers.size, self.flags()), zeroes)
        self.enter(data)

    def opt_abort(self, data: bytes) -> None:
        self.said_goodbye = "NBD_OPT_ABORT"
        self.reply(Option.ABORT, Rep.ACK)
        raise Left

    def opt_list(self, data: bytes) -> None:
        if data:
            self.reply(Option.LIST, OptionError.INVALID)
            return
        for name in self.offers.names:
            self.reply(Option.LIST, Rep.SERVER, struct.pack(">I", len(name.encode())) + name.encode())
        self.reply(Option.LIST, Rep.ACK)

    def opt_info(self, data: bytes) -> None:
        self.inform(Option.INFO, data)

    def opt_go(self, data: bytes) -> None:
        if self.inform(Option.GO, data):
            self.enter(data[4 : 4 + int.from_bytes(data[:4])])

    def inform(self, option: int, data: bytes) -> bool:
        """Answer INFO or GO; whether it was granted."""
        length = int.from_bytes(data[:4])
        count = int.from_bytes(data[4 + length : 6 + length])
        if len(data) != 6 + length + 2 * count or not _wire.is_string(data[4 : 4 + length]):
            self.reply(option, OptionError.INVALID)
            return False
        if not self.knows(data[4 : 4 + length]):
            self.reply(option, OptionError.UNKNOWN)
            return False
        asked = struct.unpack(f">{count}H", data[6 + length :])
        for kind, payload in self.infos(asked):
            self.reply(option, Rep.INFO, struct.pack(">H", kind) + payload)
        self.reply(option, Rep.ACK)
        return True

    def infos(self, asked: Sequence[int]) -> list[tuple[int, bytes]]:
        """The information about the export, in order."""
        told = [(int(Info.EXPORT), struct.pack(">QH", self.offers.size, self.flags()))]
        if Info.DESCRIPTION in asked:
            told.append((Info.DESCRIPTION, b"a disk"))
        self.sizes_told = Info.BLOCK_SIZE in asked
        if self.sizes_told:
            sizes = (self.offers.minimum, self.offers.preferred, self.offers.maximum)
            told.append((Info.BLOCK_SIZE, struct.pack(">III", *sizes)))
        return told

    def opt_structured_reply(self, data: bytes) -> None:
        if data:
            self.reply(Option.STRUCTURED_REPLY, OptionError.INVALID)
        elif not self.offers.structured:
            self.reply(Option.STRUCTURED_REPLY, OptionError.UNSUP)
        else:
            self.structured = True
            self.reply(Option.STRUCTURED_REPLY, Rep.ACK)

    def opt_list_meta_context(self, data: bytes) -> None:
        asked = self.contexts_asked(Option.LIST_META_CONTEXT, data)
        if asked is None:
            return
        queries = asked[1] or list(self.offers.contexts)
        for name in self.offers.contexts:
            if name in queries or f"{name.partition(':')[0]}:" in queries:
                self.reply(Option.LIST_META_CONTEXT, Rep.META_CONTEXT, bytes(4) + name.encode())
        self.reply(Option.LIST_META_CONTEXT, Rep.ACK)

    def opt_set_meta_context(self, data: bytes) -> None:
        self.selected = {}
        asked = self.contexts_asked(Option.SET_META_CONTEXT, data)
        if asked is None:
            return
        self.selected_for = asked[0]
        self.selected = {name: number + 1 for number, name in enumerate(self.offers.contexts) if name in asked[1]}
        for name, number in self.selected.items():
            self.reply(Option.SET_META_CONTEXT, Rep.META_CONTEXT, struct.pack(">I", number) + name.encode())
        self.reply(Option.SET_META_CONTEXT, Rep.ACK)

    def contexts_asked(self, option: int, data: bytes) -> tuple[bytes, list[str]] | None:
        """The export and the queries; None where the option was refused."""
        if not self.offers.contexts:
            self.reply(option, OptionError.UNSUP)
            return None
        parsed = _queries(data) if self.structured else None
        if parsed is None:
            self.reply(option, OptionError.INVALID)
        elif not self.knows(parsed[0]):
            self.reply(option, OptionError.UNKNOWN)
        else:
            return parsed
        return None

    def knows(self, name: bytes) -> bool:
        return name in [each.encode() for each in self.offers.names]

    def flags(self) -> int:
        """The transmission flags to tell now."""
        return self.offers.flags & ~(0 if self.structured else int(Flag.SEND_DF))

    def enter(self, name: bytes) -> None:
        contexts = self.selected if self.selected_for == name else {}
        self.selected = contexts
        minimum, maximum = (self.offers.minimum, self.offers.maximum) if self.sizes_told else (0, 0)
        self.told = Entered(self.offers.size, self.flags(), minimum, maximum, self.structured, len(contexts))


def _queries(data: bytes) -> tuple[bytes, list[str]] | None:
    """The export name and queries of a meta context option; None where lengths or strings are wrong."""
    try:
        (length,) = struct.unpack_from(">I", data)
        name, at = data[4 : 4 + length], 8 + length
        (count,) = struct.unpack_from(">I", data, 4 + length)
        queries = []
        for _ in range(count):
            (size,) = struct.unpack_from(">I", data, at)
            query = data[at + 4 : at + 4 + size]
            if len(query) != size or not _wire.is_string(query):
                return None
            queries.append(query.decode())
            at += 4 + size
    except struct.error:
        return None
    return (name, queries) if at == len(data) and len(name) == length else None
