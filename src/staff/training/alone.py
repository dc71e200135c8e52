"""Hide from the libraries that this process is one of several."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

# What torchrun tells in the environment, and what MPI or Slurm do.
LIBRARIES_ASK = (
    *("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"),
    *("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE"),
)


@contextmanager
def alone() -> Iterator[dict[str, str]]:
    """Put away what tells of other processes; yields it.

    accelerate would take every model for one that all train, even where there is one process.
    """
    told = {name: os.environ.pop(name) for name in LIBRARIES_ASK if name in os.environ}
    try:
        yield told
    finally:
        os.environ.update(told)
