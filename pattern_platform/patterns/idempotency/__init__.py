"""Chapter 4: ways to write so that a rerun is harmless."""
