"""The stages of a run, one file each; `pipeline` determines their order."""
