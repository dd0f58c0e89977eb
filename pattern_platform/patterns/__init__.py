"""The library: one module a pattern, named as in "Data Engineering Design Patterns"."""
