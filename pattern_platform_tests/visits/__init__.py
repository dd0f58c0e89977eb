"""Tests of the visits."""
