"""Tests of the platform, laid out like the package."""
