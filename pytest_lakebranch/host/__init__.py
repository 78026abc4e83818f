"""The host: one process per run and machine that owns everything shared, and how to talk to it."""
