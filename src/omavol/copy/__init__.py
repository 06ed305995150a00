"""Copying a disk: what is to be moved, moving it, and proving that it arrived.

`plan` extents in, work out · `extents` asks a source for them · `ends` opens both ends · `engine` runs a copy ·
`digests` the proof's file · `verify` compares a volume with it · `progress` rates and times · `errors`.
The bytes move in `omavol._fastio` only.
"""
