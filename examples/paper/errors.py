"""Input that can't be used, told in a line."""

import argparse
import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def as_usage_errors(parser: argparse.ArgumentParser) -> Iterator[None]:
    """Inside, files that are missing or wrong, and packages that are not installed, end the script as a wrong option does: without a traceback."""
    try:
        yield
    except (ImportError, OSError, ValueError) as error:
        parser.error(str(error))
