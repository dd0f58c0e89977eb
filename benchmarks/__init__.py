"""Ratios of the platform's IO managers to the bare libraries and to the official IO manager; ``make bench``."""
