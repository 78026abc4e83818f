"""Databricks Lakebase: branches in a project of theirs, over its REST API and its PostgreSQL endpoints."""
