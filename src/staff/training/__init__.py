"""Fine-tune a model on part of its rows, and evaluate the result."""
