"""Side by side with the best peer, in one run: each file is a subject, each test a row of the table.

A docstring says the aim, what bounds the row, and what ours and the peers promise alike. Rounds are interleaved and
their order turns, because machines are noisy; medians count, never an absolute time. Peers are the installed ones and
the newest (tests/peers.py): the better of both counts. pytest-benchmark is the harness: its options work, its clock is
what our lane cost for one unit of work (conftest.py says how that goes with interleaving).

`OMA_BENCH=short` (CI) has smaller images and three rounds. A row fails where it falls under half its aim. The table is
printed at the end; every sample goes to bench-results/results.json, or where OMA_BENCH_JSON says.
"""
