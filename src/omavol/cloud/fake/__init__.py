"""A CloudStack to test against: its volume, machine, snapshot and job calls over real HTTP, with faults on demand.

`python -m omavol.cloud.fake --help` runs it; docs/FAKE-CLOUDSTACK.md says what it knows. `model` the volumes, machines
and snapshots; `jobs` what takes time, and what goes wrong; `api` requests, signatures, answers; `hardware` what appears
in a machine, `qmp` the monitor of a QEMU in which it appears.
"""
