"""Read the next rows while the tokenizers library works on these, on other threads."""

from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

from staff.data.tokenise import threads
from staff.errors import StaffError

Job = TypeVar("Job")
Done = TypeVar("Done")


def in_order(work: Callable[[Job], Done], jobs: Iterator[Job]) -> Generator[tuple[Job, Done]]:
    """Every job and what `work` makes of it, in the order of the jobs, as without threads.

    `work` runs on a thread, one job at a time, while the next job is made and the last result is
    used; where `threads` allows but one, there is none. An error comes where it would come
    without threads: behind the results of earlier jobs.
    """
    if threads() == 1:
        for job in jobs:
            yield job, work(job)
        return
    with ThreadPoolExecutor(1, "tokenise") as pool:
        waiting = None
        while True:
            coming, fault = None, None
            try:
                for job in islice(jobs, 1):
                    coming = job, pool.submit(work, job)
            except StaffError as error:
                fault = error
            if waiting is not None:
                yield waiting[0], waiting[1].result()
            if fault is not None:
                raise fault
            if coming is None:
                return
            waiting = coming
