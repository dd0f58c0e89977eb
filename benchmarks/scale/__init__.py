"""What grows with partitions, files, commits, keys and runs: the measured curves of docs/scale.md, and a simulator."""
