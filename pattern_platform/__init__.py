"""Data engineering patterns for Dagster and Delta Lake. The public interface is in ``__init__.pyi``.

A name is imported when it is first asked for: every run is a process, and pays for what its code location imports.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
