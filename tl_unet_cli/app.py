"""The commands, put together."""

import inspect
import re
from typing import Annotated

import typer

from tl_unet_cli import encoders, evaluate, export, predict, train
from tl_unet_cli.library import import_library, needs_library

app = typer.Typer(
    help="From a folder of images to masks: train a U-Net with a pre-trained encoder, judge it, use it.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        import_library()
        import tl_unet

        typer.echo(f"tl-unet {tl_unet.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    pass


for module in (encoders, train, evaluate, predict, export):
    name = module.__name__.rpartition(".")[2]
    command = getattr(module, name)
    # Its lines are broken for the reader of the source, not for the terminal.
    text = re.sub(r"(?<!\n)\n(?!\n)", " ", inspect.getdoc(command))
    app.command(name, help=text, epilog=module.EPILOG)(needs_library(command))
