"""What is wrong with a deployment, before a run finds out: each pitfall that was met is a check of its own."""
