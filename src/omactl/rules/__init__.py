"""Decisions as tables: pure functions from facts to a decision. Imports nothing of the rest of omactl.

`transitions` statuses and legal moves · `steps` what a replication consists of · `recovery` what becomes of a live job
· `context` what a machine's status is · `messages` what an error means to a person · `scrub` what no person may read.
"""
