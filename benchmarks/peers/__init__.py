"""Other ways to give tests a database of their own, side by side: ``python -m benchmarks.peers``."""
