"""Imported for what it leaves behind: the modules that Dagster imports with the first instance of a process."""

from __future__ import annotations

import dagster as dg

with dg.DagsterInstance.ephemeral():
    pass
