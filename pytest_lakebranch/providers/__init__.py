"""Providers: where branches live."""
