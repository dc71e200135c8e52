"""A finished run as text and as HTML."""
