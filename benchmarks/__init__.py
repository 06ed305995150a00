"""Side by side with the best peer, in one run: each file is one figure, and says in its docstring what is compared.

Rounds are interleaved and their order turns, because these machines are noisy; medians count, never an absolute time.
`OMA_BENCH=short` (CI) does fewer rounds. The table is printed at the end and written to bench-results/results.json.
"""
