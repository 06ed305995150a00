"""NBD for people: names of the numbers, URIs, and a client that waits for nothing without a limit.

The protocol itself is `omavol._wire`, compiled and without I/O; this package wraps it. `client.connect(uri)` gives a
negotiated `Connection`; `client.negotiate(uri)` asks a server what it has. Errors are in `errors`, each with a code.
"""
