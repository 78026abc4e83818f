"""The Lakebase API on this machine, over real branches of the local provider: for official clients, and for ours."""
