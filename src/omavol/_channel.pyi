"""Moves bytes over a connected socket; called from compiled code alone (_channel.pxd)."""
