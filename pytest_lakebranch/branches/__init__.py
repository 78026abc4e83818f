"""The engine: bases, pools and leases over any provider, without pytest and without HTTP."""
