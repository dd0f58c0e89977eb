"""The catalogue of all tables: what they hold, whose they are, and how they are; as a site and as a data dictionary."""
