"""A small stock application: what lies where, for whom it is kept, and how it leaves."""
