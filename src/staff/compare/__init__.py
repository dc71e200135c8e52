"""Is a coreset better than a random subset on this task? Selection methods compared."""
