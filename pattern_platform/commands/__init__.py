"""The `pattern-platform` command, a module for each group of subcommands."""
