"""`tl-unet encoders`: what can be used as an encoder."""

import json
from importlib import resources
from typing import Annotated

import typer
from rich import box
from rich.table import Table

from tl_unet_cli.common import JSON, WRONG_USAGE, out, print_json, stop

EPILOG = "Examples:  [b]tl-unet encoders[/b]   [b]tl-unet encoders 'resnet*'[/b]   [b]tl-unet encoders --json[/b]"


def encoders(
    pattern: Annotated[
        str | None,
        typer.Argument(help="Only names like this, such as 'resnet*'.", show_default=False),
    ] = None,
    as_json: JSON = False,
) -> None:
    """List the encoders that a U-Net can have."""
    found = rows(pattern)
    if not found:
        stop(f"No encoder's name is like {pattern!r}; [tl-unet encoders] lists all.", WRONG_USAGE)
    if as_json:
        print_json(found)
        return
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("encoder", style="bold", no_wrap=True)
    table.add_column("parameters", justify="right")
    table.add_column("strides", no_wrap=True)
    table.add_column("preprocessing")
    table.add_column("ImageNet", justify="right")
    for row in found:
        known = row["parameters"]
        table.add_row(
            row["encoder"],
            "" if known is None else f"{known:,}",
            ", ".join(map(str, row["strides"])),
            row["preprocessing"],
            f"{row['imagenet_megabytes']} MB" if row["imagenet_megabytes"] else "none",
        )
    out.print(table)
    out.print(
        f"{len(found)} encoders. ImageNet: about the size of the weights that Keras downloads, 4 bytes a parameter.",
        style="dim",
    )


def rows(pattern: str | None = None) -> list[dict]:
    """What is known of each encoder, without building one."""
    import tl_unet

    text = resources.files("tl_unet.encoders").joinpath("parameters.json").read_text()
    parameters = json.loads(text)
    found = []
    for name in tl_unet.list_encoders(pattern):
        spec = tl_unet.get_encoder_spec(name)
        count = parameters.get(name)
        named = isinstance(spec.preprocessing, str)
        found.append(
            {
                "encoder": name,
                "family": spec.family,
                "parameters": count,
                "strides": [tap.stride for tap in spec.taps],
                "preprocessing": spec.preprocessing if named else "custom",
                "imagenet_megabytes": round(count * 4 / 1e6, 1)
                if spec.imagenet and count
                else None,
            }
        )
    return found
