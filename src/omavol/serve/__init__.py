"""The NBD server process: `omavol serve`.

`listeners` sockets and their URIs · `activation` sockets handed in · `lifetime` until when · `table` what is served ·
`filters` what stands before it · `control` the socket by which the daemon and `omavol exports` change it · `client` the
other end of that socket · `tracking` points of an export and what changed since · `limits` how much of everything ·
`incarnation` which life of the server this is · `errors` what can go wrong, each with a line and a code. Bytes move in
`omavol._fastio`.
"""
