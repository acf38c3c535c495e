"""What the tools say about the machine that they measured on."""

import os


def cores():
    """How many processor cores this process may use, in words: "2 CPU cores"."""
    known = hasattr(os, "sched_getaffinity")  # not every system tells what a process may use
    count = len(os.sched_getaffinity(0)) if known else os.cpu_count()
    return f"{count} CPU core{'s' * (count != 1)}"
