"""DuckDB, with connections as short as the statement."""
