"""The `staff` command: the only place that prints, exits or reads the command line."""
