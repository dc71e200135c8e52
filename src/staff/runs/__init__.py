"""What a run is told (config), leaves on disk (store) and says of itself (manifest)."""
