"""Flow patterns on a real Dagster: webserver, daemon, code servers, and a process for each run."""
