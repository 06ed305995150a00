"""The volume daemon: HTTP over a unix socket in front of `omavol.volumes`.

`house` everything one daemon owns · `listen` the socket and who may use it · `watch` the control socket's comings and
goings · `routes_*` parse, call, answer · `answers` bodies, problems · `health` · `app` the routes together.
"""
