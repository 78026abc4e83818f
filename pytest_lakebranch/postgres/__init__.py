"""Finding PostgreSQL's programs and connecting to servers: the only room that opens connections."""
