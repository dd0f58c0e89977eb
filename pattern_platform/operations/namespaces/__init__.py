"""Namespaces: made, cloned, listed and dropped."""
