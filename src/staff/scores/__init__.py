"""Effort scores and the signals that come with them."""
