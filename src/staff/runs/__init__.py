"""A run's settings (config), its files on disk (store) and its record (manifest)."""
