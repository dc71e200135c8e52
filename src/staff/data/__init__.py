"""From files of training rows to token ids on disk."""
