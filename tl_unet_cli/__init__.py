"""The `tl-unet` command: a thin face over the functions of the library, one file a command.

It stands beside the library and not in it, since importing any part of `tl_unet` imports Keras, which takes seconds: a command does
that when it runs (`library.py`), its help does not need it.

Exit status: 0 if all went well, 1 if something failed, 2 for wrong usage, 130 after Ctrl-C.
"""

import sys


def main() -> None:
    """Runs the command line."""
    try:
        from tl_unet_cli.app import app
    except ImportError as error:
        if error.name not in ("typer", "rich"):
            raise
        sys.exit(
            f'The tl-unet command needs {error.name}, which is not installed: pip install "tl-unet[cli]"'
        )
    app(prog_name="tl-unet")
