"""Reads and writes what is served; called from compiled code alone (_store.pxd)."""
