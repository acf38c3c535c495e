"""Lets mkdocstrings read docstrings in Keras' grammar.

Its Google parser knows `Examples:` with an indented block, where Keras writes `Example:` and does not indent.
"""

import re
import textwrap

import griffe


def _indented(match):
    body = textwrap.dedent(match["body"]).strip("\n")
    return f"Examples:\n{textwrap.indent(body, '    ')}\n\n"


class KerasDocstrings(griffe.Extension):
    """Rewrites the sections before they are parsed."""

    def on_object(self, *, obj, **kwargs):
        """Called for each module, class, function and attribute."""
        if obj.docstring:
            section = r"^Example:\n(?P<body>.*?)(?=^[A-Z][A-Za-z ]*:$|\Z)"
            obj.docstring.value = re.sub(
                section, _indented, obj.docstring.value, flags=re.MULTILINE | re.DOTALL
            )
