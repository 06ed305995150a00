"""What moves jobs along: the flow of a replication, its followers, recovery, the health monitor and the dispatcher.

`peers` the daemon and the sources, their errors made ours · `setup`, `proof`, `closing` the parts of `replication` ·
`follow` one follower a source · `dispatch` who runs which job · `recovery`, `monitor` jobs nobody runs · `machines`
discovery · `control` all of them started and stopped together.
"""
