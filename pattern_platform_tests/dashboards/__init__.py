"""Tests of the dashboards of another team."""
