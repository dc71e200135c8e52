"""Load causal LMs and find their parts."""
