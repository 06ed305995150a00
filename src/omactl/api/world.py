"""What the handlers work with: the running control plane, and the keys to it."""

from __future__ import annotations

from dataclasses import dataclass

from omactl.access.keys import Keys
from omactl.work.control import Control

__all__ = ["World"]


@dataclass(frozen=True)
class World:
    """One an application, made before its first request."""

    control: Control
    keys: Keys
