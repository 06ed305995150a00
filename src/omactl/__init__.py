"""The control plane: jobs, recovery, health and messages over omavol and the source agents.

Arrows point down: `rules` (pure) -> `store` -> `work` -> `api`, `cli`. It reaches omavol only through `omavol.client`.
"""

from omavol import __version__

__all__ = ["__version__"]
