"""What a finished run has to say, as text."""
