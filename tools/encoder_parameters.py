"""Writes tl_unet/encoders/parameters.json, the numbers of parameters that `tl-unet encoders` shows, from the table of docs/encoders.md.

    python tools/encoder_parameters.py

Run it after tools/encoder_table.py, which builds every encoder; the tests fail when the two disagree.
"""

import json
import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGE, FILE = ROOT / "docs/encoders.md", ROOT / "tl_unet/encoders/parameters.json"


def parameters(text):
    """Encoder names to numbers of parameters, from the text of the page."""
    rows = re.findall(r"^\| `(\w+)` \| [^|]+ \| ([\d,]+) \|", text, flags=re.MULTILINE)
    return {name: int(number.replace(",", "")) for name, number in sorted(rows)}


if __name__ == "__main__":
    FILE.write_text(json.dumps(parameters(PAGE.read_text()), indent=1) + "\n")
    print(f"{FILE.relative_to(ROOT)}: written")
