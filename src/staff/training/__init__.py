"""Fine-tune a model on part of its rows, and see what that was worth."""
