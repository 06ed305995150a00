"""The judge of clients: a server that keeps every rule, scenarios that each break one thing, and what the client does.

`honest` and `answers` are the good server, by hand, so that every byte of it can be wrong; `scenarios` are its
subclasses, one named misbehaviour each; `seen` holds what the client sent against the rules for clients; `judge` runs
a command against each scenario.
"""
