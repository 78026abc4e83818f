"""Checks on migrations: what one does to a database, measured while it does it."""
