"""What a volume's content and generation become at each event: pure rules, total over contents and events.

The rules (ARCHITECTURE.md rule 7). The first write of a pass records "torn" before it can happen; only proof records a
point; an unclean end leaves it torn at the same generation, and an incremental from the torn content's base heals it.
The base survives only while every write since it came from an incremental on that base: a full pass may carry another
source's bytes, which no change record since the old point covers, so it leaves no base.
"""

from __future__ import annotations

from dataclasses import dataclass

from omavol.schema.volumes import AtPoint, Base, Content, ProofLevel, Torn, UnknownContent

__all__ = [
    "ChangedOutside",
    "EndedUnproved",
    "Event",
    "Held",
    "Mode",
    "Opened",
    "Proved",
    "base_of",
    "choose_mode",
    "content_after",
]


@dataclass(frozen=True)
class Held:
    """What a volume holds, and its generation."""

    content: Content
    generation: int


@dataclass(frozen=True)
class Mode:
    """`incremental` or `full`, and the reason in words."""

    name: str
    reason: str

    @property
    def incremental(self) -> bool:
        return self.name == "incremental"


@dataclass(frozen=True)
class Opened:
    """A write session is about to begin."""

    session: str
    job: str
    mode: Mode


@dataclass(frozen=True)
class Proved:
    """The session's writes are proved to make `point`."""

    session: str
    point: str
    proof: ProofLevel


@dataclass(frozen=True)
class EndedUnproved:
    """The session ended. `former`: what was held before it opened; `wrote_nothing`: known, not assumed."""

    session: str
    former: Held
    wrote_nothing: bool


@dataclass(frozen=True)
class ChangedOutside:
    """Something other than a session may have written, or the volume was made anew."""

    reason: str


Event = Opened | Proved | EndedUnproved | ChangedOutside


def base_of(content: Content) -> str | None:
    """The point an incremental may stand on: the content's own, or the torn content's base."""
    match content:
        case AtPoint(point=point):
            return point
        case Torn(base=base):
            return base
        case UnknownContent():
            return None


def choose_mode(held: Held, asked: Base | None) -> Mode:
    """Whether a pass on `asked` may be incremental; otherwise why it must be full."""
    point = base_of(held.content)
    if asked is None:
        return Mode("full", "no base was given")
    if asked.generation != held.generation:
        return Mode(
            "full",
            f"the volume is at generation {held.generation}, the base was taken at generation {asked.generation}",
        )
    if point is None:
        return Mode("full", f"the volume holds no proved point, so not {asked.point} either")
    if point != asked.point:
        return Mode("full", f"the volume holds point {point}, not {asked.point}")
    if isinstance(held.content, Torn):
        return Mode("incremental", f"heals the pass of {held.content.job} from point {point}")
    return Mode("incremental", f"from point {point}")


def content_after(held: Held, event: Event) -> Held:
    """What the volume holds after `event`. An event of a session that is not the one that tore it changes nothing."""
    match event:
        case ChangedOutside():
            return Held(UnknownContent(), held.generation + 1)
        case Opened(session, job, mode):
            base = base_of(held.content) if mode.incremental else None
            return Held(Torn(since_session=session, job=job, base=base), held.generation)
        case Proved(session, point, proof) if _torn_by(held, session):
            return Held(AtPoint(point=point, proof=proof), held.generation)
        case EndedUnproved(session, former, wrote_nothing) if _torn_by(held, session) and wrote_nothing:
            return former if former.generation == held.generation else held
        case Proved() | EndedUnproved():
            return held


def _torn_by(held: Held, session: str) -> bool:
    return isinstance(held.content, Torn) and held.content.since_session == session
