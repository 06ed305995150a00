"""What the daemon knows and does about volumes, without HTTP: every call blocks and may come from any thread.

Pure: `content` what a volume holds, `fence` who may write, `reconcile` what to mend. The record: `record` the file,
`rows` its rows, `names`. Effects: `served` the NBD server's table, `sessions`, `operations` and its kinds `lifecycle`
and `proof`, `mend`.
"""
