"""Change sets on Delta tables: every write is files to add and files to remove, committed once."""
