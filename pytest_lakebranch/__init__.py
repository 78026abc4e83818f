"""pytest-lakebranch: a branch of a production-shaped PostgreSQL database for every test, worker or run."""

__version__ = "0.1.0"
