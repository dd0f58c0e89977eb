"""What the platform adds around assets: checks, validation of declarations."""
