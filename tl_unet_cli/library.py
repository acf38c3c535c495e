"""Importing the library when a command runs, without TensorFlow's own log lines."""

import contextlib
import functools
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator

_LEVEL = "TF_CPP_MIN_LOG_LEVEL"
_LOG_LINE = re.compile(
    rb"[IWE]\d{4} \d\d:|\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+: [IWE] |WARNING: All log messages before absl::Init"
)


def needs_library(command: Callable) -> Callable:
    """A command that imports the library before it runs, and not when its help is asked for."""

    @functools.wraps(command)
    def run(*args, **kwargs):
        import_library()
        return command(*args, **kwargs)

    return run


def import_library() -> None:
    """Imports `tl_unet`. What TensorFlow logs is left out, unless the variable that says how much of it is wanted is set."""
    if "tl_unet" in sys.modules:
        return
    if _LEVEL in os.environ:
        import tl_unet

        return
    os.environ[_LEVEL] = "3"
    with _without_log_lines():
        import tl_unet  # noqa: F401


@contextlib.contextmanager
def _without_log_lines() -> Iterator[None]:
    """Leaves log lines out of the standard error: what TensorFlow writes while it is loaded heeds no level."""
    try:
        stderr = os.dup(2)
    except OSError:  # there is none
        yield
        return
    with tempfile.TemporaryFile() as file:
        sys.stderr.flush()
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(stderr, 2)
            os.close(stderr)
            file.seek(0)
            for line in file:
                if not _LOG_LINE.match(line):
                    os.write(2, line)
