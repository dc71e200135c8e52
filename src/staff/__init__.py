"""staff: choose the part of a fine-tuning set that is worth training on."""

__version__ = "0.1.0"
