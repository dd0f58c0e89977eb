"""What keeps the platform running: upkeep of its tables."""
