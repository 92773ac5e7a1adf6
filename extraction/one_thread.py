"""Threads that only read and prepare leave the cores to the others."""

import threading

import torch
from threadpoolctl import threadpool_limits

_this_thread = threading.local()


def use_one_thread_here() -> None:
    """Keep what this thread does (resizing, converting) out of OpenMP. Called again, it does nothing.

    Every thread that uses OpenMP gets a team of its own whose members wait by spinning; with readers and encoder on
    the same cores that made runs ten times slower (figures in benchmarks/results.md).
    """
    if not getattr(_this_thread, "limited", False):
        torch.get_num_threads()  # PyTorch sets up a thread's OpenMP on first use, which would undo the limit
        threadpool_limits(limits=1, user_api="openmp")
        _this_thread.limited = True
