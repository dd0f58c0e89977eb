"""Dashboards of another team, deployed apart: they know the tables of others by key and contract alone."""
