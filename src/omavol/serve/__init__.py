"""The NBD server process: `omavol serve`.

`listeners` sockets and their URIs · `table` what is served · `filters` what stands before it · `control` the socket by
which the daemon changes it · `client` the other end of that socket · `limits` how much of everything ·
`incarnation` which life of the server this is · `errors` what can go wrong, each with a line and a code. Bytes
move in `omavol._fastio`.
"""
