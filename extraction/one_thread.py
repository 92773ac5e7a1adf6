"""Threads that only read and prepare leave the cores to the others."""

import torch
from threadpoolctl import threadpool_limits


def use_one_thread_here() -> None:
    """Keep what this thread does (resizing, converting) out of OpenMP; an `initializer` of thread pools.

    Every thread that uses OpenMP gets a team of its own whose members wait by spinning; with readers and encoder on
    the same cores that made runs ten times slower (figures in benchmarks/results.md).
    """
    torch.get_num_threads()  # PyTorch sets up a thread's OpenMP on first use, which would undo the limit
    threadpool_limits(limits=1, user_api="openmp")
