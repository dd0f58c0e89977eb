"""Tests of the flights."""
