"""The stages of a run, a file each; `pipeline` says what happens when."""
