"""Writes the tables of encoders in README.md and docs/encoders.md from the registry.

Run `python tools/encoder_table.py` after registering an encoder; the tests fail when a table is out of date. The full table builds every
encoder to count its parameters, which takes some minutes.
"""

import pathlib

from marks import insert

import tl_unet

ROOT = pathlib.Path(__file__).resolve().parents[1]
START, END = (
    "<!-- encoder table: python tools/encoder_table.py -->",
    "<!-- end of encoder table -->",
)


def families():
    """The built-in specs by family, in the order of registration of the families."""
    groups = {}
    for name in tl_unet.list_encoders():
        spec = tl_unet.get_encoder_spec(name)
        if spec.family != "custom":
            groups.setdefault(spec.family, []).append(spec)
    return dict(sorted(groups.items(), key=lambda item: item[0].lower()))


def _strides(spec):
    return ", ".join(str(tap.stride) for tap in spec.taps)


def short_table():
    """One row a family, for the README."""
    rows = ["| family | `encoder=` | strides of the maps |", "| --- | --- | --- |"]
    for family, specs in families().items():
        names = ", ".join(f"`{spec.name}`" for spec in specs)
        rows.append(f"| {family} | {names} | {_strides(specs[0])} |")
    return "\n".join(rows)


HEADER = (
    "| `encoder=` | family | parameters | strides | channels | preprocessing | smallest side |\n"
    "| --- | --- | ---: | --- | --- | --- | ---: |"
)


def row(spec, encoder):
    """One row of the full table, for a spec and its built encoder."""
    channels = ", ".join(str(output.shape[-1]) for output in encoder.outputs)
    return (
        f"| `{spec.name}` | {spec.family} | {encoder.count_params():,} | {_strides(spec)} | {channels} | "
        f"{spec.preprocessing} | {spec.min_size} |"
    )


def main():
    """Builds every encoder and rewrites both files."""
    import keras

    rows = []
    for specs in families().values():
        for spec in specs:
            model = tl_unet.build_unet(spec, weights=None, freeze=False)
            rows.append(row(spec, model.get_layer("encoder")))
            keras.utils.clear_session()
    tables = {"README.md": short_table(), "docs/encoders.md": "\n".join([HEADER, *rows])}
    for file, table in tables.items():
        path = ROOT / file
        path.write_text(insert(path.read_text(), START, END, table))
        print(f"{file}: written")


if __name__ == "__main__":
    main()
