"""Schemas: what a database consists of, and how two differ."""
