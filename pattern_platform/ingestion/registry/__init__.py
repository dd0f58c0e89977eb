"""The registry of data sets and their contracts: read, checked, compared, drafted."""
