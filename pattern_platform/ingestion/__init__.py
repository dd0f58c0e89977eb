"""Landed files -> raw -> clean and quarantine, for any data set that a :class:`Dataset` describes."""
