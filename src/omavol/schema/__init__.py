"""The types of every API and record, one module an audience; servers, clients, the agent and omactl share them.

`common` identities, points and problems · `volumes` the volume API · `source` the source API · `control` the socket
between the daemon and the NBD server · `sizes` bytes as a person writes them.

Sizes and offsets are bytes, durations seconds, times are RFC 3339 in UTC. Unknown fields are ignored on reading, so
that N and N-1 talk; an unknown enum value is a decoding error that names it.
"""
