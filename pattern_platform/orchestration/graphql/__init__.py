"""Whatever speaks the GraphQL of the Dagster UI: backfills and the client for Python."""
