"""The volume engine: an NBD server, client and copy engine whose bytes never pass through Python, and the daemon
that keeps what is served equal to what is recorded.

Nothing is imported here, so that `omavol --version` and the command line start at once.
"""

__version__ = "0.1.0"
