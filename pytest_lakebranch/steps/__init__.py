"""Steps: the ways to change a base."""
