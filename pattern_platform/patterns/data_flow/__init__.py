"""Chapter 6: ways to decide when things run."""
