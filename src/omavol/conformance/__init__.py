"""The conformance suites: what a server, and what a client, does against the words of the NBD protocol document.

`table` holds what a check is, `checks/` the checks of servers, one exchange of the protocol a file; `link`, `shake` and
`session` speak the bytes, by hand, so that wrong ones can be said; `server` knows the server under test, `run` runs.
`clients/` is the other half: a server that behaves badly in named ways, and the judgement of the client that met it.
The document is doc/proto.md of the NBD project; rule numbers are those of docs/NBD.md.
"""
