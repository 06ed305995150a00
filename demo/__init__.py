"""The main job on one machine, end to end: what `make run` does and `make up` leaves running.

`machine` makes the source machine, `processes` starts the four processes, `control` speaks to omactl as any client
would, `acts` are the seven things shown, `console` prints them.
"""
