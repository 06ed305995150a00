"""What a client sent, held against the rules for clients as it comes (C7 to C17)."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field

from omavol.nbd.wire import Command, CommandFlag, Option
from omavol.nbd.wire import TransmissionFlag as Flag

__all__ = ["Breach", "Entered", "Seen"]

_NEEDS: dict[int, Flag] = {
    Command.FLUSH: Flag.SEND_FLUSH,
    Command.TRIM: Flag.SEND_TRIM,
    Command.WRITE_ZEROES: Flag.SEND_WRITE_ZEROES,
}
_FLAG_NEEDS: dict[int, Flag] = {
    CommandFlag.FUA: Flag.SEND_FUA,
    CommandFlag.DF: Flag.SEND_DF,
    CommandFlag.FAST_ZERO: Flag.SEND_FAST_ZERO,
}
_FLAGS_OF: dict[int, int] = {
    Command.READ: CommandFlag.DF,
    Command.WRITE_ZEROES: CommandFlag.NO_HOLE | CommandFlag.FAST_ZERO,
    Command.BLOCK_STATUS: CommandFlag.REQ_ONE,
}


@dataclass(frozen=True)
class Breach:
    """A rule the client broke, and the words for it."""

    rule: str
    text: str
    data: bytes = b""


@dataclass(frozen=True)
class Entered:
    """What the client was told and agreed to when it entered; block sizes are 0 where they were not told."""

    size: int
    flags: int
    minimum: int
    maximum: int
    structured: bool
    contexts: int


@dataclass
class Seen:
    """All connections of one run of the client. Their threads share it; `lock` guards every list.

    `met` is set once the scenario's misbehaviour was really said; `endings` has a word for each connection that ended.
    """

    lock: threading.Lock = field(default_factory=threading.Lock)
    breaches: list[Breach] = field(default_factory=list)
    options: Counter[int] = field(default_factory=Counter)
    commands: Counter[int] = field(default_factory=Counter)
    endings: list[str] = field(default_factory=list)
    met: bool = False
    open_: int = 0
    most_open: int = 0
    in_transmission: int = 0

    def meet(self) -> None:
        self.met = True

    def breach(self, rule: str, text: str, data: bytes = b"") -> None:
        with self.lock:
            self.breaches.append(Breach(rule, text, data))

    def enters(self, entered: Entered) -> None:
        """A connection begins its transmission phase."""
        with self.lock:
            self.in_transmission += 1
            several = self.in_transmission > 1 and not entered.flags & Flag.CAN_MULTI_CONN
        if several:
            self.breach("C12", "a second connection to an export without NBD_FLAG_CAN_MULTI_CONN")

    def ends(self, word: str, transmitting: bool) -> None:
        with self.lock:
            self.endings.append(word)
            self.in_transmission -= int(transmitting)

    def option(self, option: int, data: bytes, behind: bytes) -> None:
        """An option, with what stood behind it before it was answered."""
        with self.lock:
            self.options[option] += 1
        if option in (Option.LIST, Option.STARTTLS, Option.STRUCTURED_REPLY) and data:
            self.breach("C13", f"data with NBD_OPT_{Option(option).name}", data)
        if option in (Option.INFO, Option.GO):
            length = int.from_bytes(data[:4])
            asked = data[6 + length :]
            requests = [asked[at : at + 2] for at in range(0, len(asked), 2)]
            if len(set(requests)) != len(requests):
                self.breach("C13", "an information request twice", data)
        if behind and option != Option.ABORT:
            self.breach("C13", "a second option before the answer to the first", behind)

    def request(self, head: tuple[int, int, int, int], told: Entered, data: bytes) -> None:
        """A request (flags, command, offset, length)."""
        flags, command, offset, length = head
        with self.lock:
            self.commands[command] += 1
        name = f"NBD_CMD_{Command(command).name}" if command in Command._value2member_map_ else f"command {command}"
        if command in (Command.DISC, Command.FLUSH):
            if offset or length:
                self.breach("C10", f"{name} with offset {offset} and length {length}", data)
        elif offset + length > told.size:
            self.breach("C15", f"{name} of {offset}+{length} in an export of {told.size}", data)
        elif told.minimum and (offset % told.minimum or length % told.minimum):
            self.breach("C15", f"{name} of {offset}+{length} with a minimum block of {told.minimum}", data)
        self._offered(flags, command, told, name, data)
        limit = told.maximum or 1 << 25
        if length > limit and (command == Command.WRITE or (command == Command.READ and not told.structured)):
            self.breach("C16", f"{name} of {length} bytes with a maximum payload of {limit}", data)

    def _offered(self, flags: int, command: int, told: Entered, name: str, data: bytes) -> None:
        needed = _NEEDS.get(command)
        if needed and not told.flags & needed:
            self.breach("C14", f"{name} without NBD_FLAG_{needed.name}", data)
        if command == Command.BLOCK_STATUS and not told.contexts:
            self.breach("C17", f"{name} without a selected context", data)
        for flag, offer in _FLAG_NEEDS.items():
            if flags & flag and not told.flags & offer:
                self.breach("C14", f"{name} with NBD_CMD_FLAG_{CommandFlag(flag).name} without it offered", data)
        if wrong := flags & ~int(CommandFlag.FUA | _FLAGS_OF.get(command, 0)):  # ~ of a flag knows named bits alone
            self.breach("C14", f"{name} with flags {wrong:#x}, which do not apply to it", data)
