"""The right to be forgotten, over everything that the platform keeps: found, erased, proven, and told in a receipt."""
