"""A child process of `compare.py`: prepares one contestant's work, and times it whenever it is asked to.

It is told its task as JSON in its only argument, answers with a line of JSON when it is ready, and with another one for each number of calls that
it reads from its standard input. Between two requests it waits, so that several of them can take turns on the same machine.
"""

import importlib
import json
import os
import sys
import time
from pathlib import Path


def peak_memory() -> int | None:
    """The most memory, in bytes, that this process has had; `None` where the system does not tell."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.is_file() else []
    for line in lines:
        # Linux' `getrusage` begins with what the process had that started this one.
        if line.startswith("VmHWM:"):
            return 1024 * int(line.split()[1])
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def seconds_of(call) -> float:
    """How long a call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main():
    """Serve until the standard input ends."""
    begun = time.perf_counter()
    import exported  # it imports NumPy, which belongs to the time of a start

    task = json.loads(sys.argv[1])
    # Libraries may print; the answers go where standard output was.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(**values):
        print(json.dumps(values), file=answers, flush=True)

    try:
        if task["work"] in exported.WORK and "folder" not in task:
            call, facts = exported.prepare(task)
        else:
            side = importlib.import_module(
                "side_torch" if task["library"] == "smp" else "side_keras"
            )
            call, facts = side.prepare(task)
        facts["start"] = time.perf_counter() - begun
        if task["work"] != "start":
            for _ in range(2):  # compiles, traces, fills caches
                call()
        answer(**facts, ready=True)
    except Exception as error:
        answer(error=f"{type(error).__name__}: {error}".splitlines()[0][:100])
        return
    for line in sys.stdin:
        calls = int(line)
        start = time.perf_counter()
        for _ in range(calls):
            call()
        answer(seconds=(time.perf_counter() - start) / calls, memory=peak_memory())


if __name__ == "__main__":
    main()
