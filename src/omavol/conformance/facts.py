"""What the suite learns of a server before it judges: what is offered, by the server's own words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from enum import StrEnum

from omavol.nbd.wire import TransmissionFlag as Flag

__all__ = ["NEEDS", "Facts", "Need", "TlsMode", "unmet"]


class TlsMode(StrEnum):
    """The document's three modes of a server."""

    OFF = "NOTLS"
    FORCED = "FORCEDTLS"
    SELECTIVE = "SELECTIVETLS"


@dataclass(frozen=True)
class Facts:
    """One export of one server, as told in the handshake; sizes in bytes, block sizes 0 where not told."""

    offered: int  # handshake flags
    tls: TlsMode
    info: bool  # INFO and GO are known
    any_name: bool  # every export name is accepted
    exports: tuple[str, ...] | None  # None: the list is refused
    structured: bool
    extended: bool
    contexts: tuple[str, ...]  # that can be selected
    size: int
    flags: int
    minimum: int
    preferred: int
    maximum: int

    def has(self, flag: Flag) -> bool:
        return bool(self.flags & flag)

    @property
    def writable(self) -> bool:
        return not self.has(Flag.READ_ONLY)

    def json(self) -> dict[str, object]:
        """The facts under stable names."""
        told = asdict(self)
        told["flags"] = [flag.name for flag in Flag if self.has(flag)]
        return told


class Need(StrEnum):
    """What a check needs of the server; WRITE needs leave of the caller, too."""

    FIXED = "fixed newstyle"
    INFO = "INFO and GO"
    NAMES = "an unknown export name"
    TWO_EXPORTS = "two exports"
    STRUCTURED = "structured replies"
    CONTEXTS = "meta contexts"
    ALLOCATION = "base:allocation"
    EXTENDED = "extended headers"
    PAYLOAD = "BLOCK_STATUS_PAYLOAD"
    TLS = "TLS"
    FORCED = "FORCEDTLS"
    SELECTIVE = "SELECTIVETLS"
    NO_TLS = "NOTLS"
    DATA = "an export that is not empty"
    READ_ONLY = "a read-only export"
    WRITE = "writing"
    FLUSH = "SEND_FLUSH"
    FUA = "SEND_FUA"
    TRIM = "SEND_TRIM"
    ZERO = "SEND_WRITE_ZEROES"
    FAST_ZERO = "SEND_FAST_ZERO"
    NO_FAST_ZERO = "no SEND_FAST_ZERO"
    CACHE = "SEND_CACHE"
    DF = "SEND_DF"
    MULTI_CONN = "CAN_MULTI_CONN"
    MINIMUM = "a minimum block size above 1"
    SIZES = "block sizes that are told"


def _flag(flag: Flag) -> Callable[[Facts], bool]:
    return lambda facts: facts.has(flag)


# Need: whether the server has it, and why not in a few words.
NEEDS: dict[Need, tuple[Callable[[Facts], bool], str]] = {
    Need.FIXED: (lambda facts: bool(facts.offered & 1), "no fixed newstyle"),
    Need.INFO: (lambda facts: facts.info, "no INFO and GO"),
    Need.NAMES: (lambda facts: not facts.any_name, "the server accepts every export name"),
    Need.TWO_EXPORTS: (lambda facts: len(facts.exports or ()) > 1, "the server lists no second export"),
    Need.STRUCTURED: (lambda facts: facts.structured, "no structured replies"),
    Need.CONTEXTS: (lambda facts: bool(facts.contexts), "no meta contexts"),
    Need.ALLOCATION: (lambda facts: "base:allocation" in facts.contexts, "no base:allocation"),
    Need.EXTENDED: (lambda facts: facts.extended, "no extended headers"),
    Need.PAYLOAD: (_flag(Flag.BLOCK_STATUS_PAYLOAD), "no BLOCK_STATUS_PAYLOAD"),
    Need.TLS: (lambda facts: facts.tls != TlsMode.OFF, "no TLS"),
    Need.FORCED: (lambda facts: facts.tls == TlsMode.FORCED, "not FORCEDTLS"),
    Need.SELECTIVE: (lambda facts: facts.tls == TlsMode.SELECTIVE, "not SELECTIVETLS"),
    Need.NO_TLS: (lambda facts: facts.tls == TlsMode.OFF, "the server offers TLS"),
    Need.DATA: (lambda facts: facts.size >= 4096, "the export is smaller than 4096 bytes"),
    Need.READ_ONLY: (_flag(Flag.READ_ONLY), "the export is writable"),
    Need.WRITE: (lambda facts: facts.writable, "the export is read-only"),
    Need.FLUSH: (_flag(Flag.SEND_FLUSH), "no SEND_FLUSH"),
    Need.FUA: (_flag(Flag.SEND_FUA), "no SEND_FUA"),
    Need.TRIM: (_flag(Flag.SEND_TRIM), "no SEND_TRIM"),
    Need.ZERO: (_flag(Flag.SEND_WRITE_ZEROES), "no SEND_WRITE_ZEROES"),
    Need.FAST_ZERO: (_flag(Flag.SEND_FAST_ZERO), "no SEND_FAST_ZERO"),
    Need.NO_FAST_ZERO: (lambda facts: not facts.has(Flag.SEND_FAST_ZERO), "SEND_FAST_ZERO is offered"),
    Need.CACHE: (_flag(Flag.SEND_CACHE), "no SEND_CACHE"),
    Need.DF: (_flag(Flag.SEND_DF), "no SEND_DF"),
    Need.MULTI_CONN: (_flag(Flag.CAN_MULTI_CONN), "no CAN_MULTI_CONN"),
    Need.MINIMUM: (lambda facts: facts.minimum > 1, "the minimum block is 1"),
    Need.SIZES: (lambda facts: facts.minimum > 0, "block sizes are not told"),
}


def unmet(needs: tuple[Need, ...], facts: Facts) -> str | None:
    """Why a check does not apply to this server; None where it does."""
    return next((NEEDS[need][1] for need in needs if not NEEDS[need][0](facts)), None)
