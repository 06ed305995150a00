"""What a running control plane is told by flags and OMA_ variables; the embedded default needs none of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from omactl.rules.recovery import LOST_AFTER
from omavol.schema.volumes import ProofLevel

__all__ = ["DEFAULT_OMAVOL", "DEFAULT_STATE", "Settings", "Timing", "sqlite_url"]

DEFAULT_STATE = Path("/var/lib/oma/omactl")
DEFAULT_OMAVOL = Path("/run/oma/volumes.sock")


@dataclass(frozen=True)
class Timing:
    """Seconds. Tests make them short; nothing else changes them but `monitor` and `lost_after`."""

    follow: float = 1.0
    follow_limit: float = 15.0
    write: float = 1.0
    monitor: float = 120.0
    stale: float = 30.0
    lost_after: float = LOST_AFTER
    lease: float = 30.0
    patience: float = 60.0
    operation: float = 120.0
    prove: float = 24 * 3600.0
    parting: float = 10.0


@dataclass(frozen=True)
class Settings:
    """`state` holds the database of the embedded default, the admin token and the tokens of sources."""

    state: Path
    omavol: Path
    database: str | None = None
    host: str = "127.0.0.1"
    port: int = 8082
    proof: ProofLevel = ProofLevel.DIGEST
    timing: Timing = field(default_factory=Timing)

    @property
    def database_url(self) -> str:
        return self.database or sqlite_url(self.state / "oma.sqlite")


def sqlite_url(path: Path) -> str:
    """The URL of an SQLite file, as --database takes it."""
    return f"sqlite+aiosqlite:///{path}"
