"""A load generator for NBD servers: what is asked (Load), what came of it (Result), and how long answers took (Times).

The loop is compiled (fastio/load_loop.pxi) and one thread drives all its connections; Python connects and reports.
"""

from omavol.load.run import Load, LoadFailed, Result, run
from omavol.load.times import Times

__all__ = ["Load", "LoadFailed", "Result", "Times", "run"]
