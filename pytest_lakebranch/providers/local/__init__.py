"""Branches on this machine: a copy-on-write clone of a sealed data directory, served by a ``postgres`` of its own."""
