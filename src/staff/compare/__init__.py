"""Is a coreset better than a random one on this task? Selection methods held against each other."""
