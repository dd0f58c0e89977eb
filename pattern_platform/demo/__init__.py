"""``make demo``: the example platform from landed files to dashboards, and a table of what came out."""
