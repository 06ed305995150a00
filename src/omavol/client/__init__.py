"""The async clients of the two APIs that omavol serves; the only door through which omactl reaches omavol.

`VolumeClient` the daemon's volume API over its unix socket · `SourceClient` an agent's source API over HTTP ·
`ProblemError` what both raise: the answer's problem document, or one made here when there was no usable answer.
"""

from __future__ import annotations

from omavol.client.problem import BadAnswer, ProblemError, Unreachable, WaitedTooLong
from omavol.client.source import SourceClient
from omavol.client.volumes import VolumeClient

__all__ = [
    "BadAnswer",
    "ProblemError",
    "SourceClient",
    "Unreachable",
    "VolumeClient",
    "WaitedTooLong",
]
