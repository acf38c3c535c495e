"""Text between two marks of a Markdown file, which the tools write anew."""

import re


def insert(text, start, end, content):
    """The text with what is between the two marks replaced.

    Args:
        text: str, of a page.
        start: str, the first mark; it stays.
        end: str, the second mark; it stays.
        content: str, to stand between them on lines of its own.

    Returns:
        str.

    Raises:
        SystemExit: if the marks are not in the text, in this order and once.

    >>> insert("a <!-- x -->\\nold\\n<!-- end --> b", "<!-- x -->", "<!-- end -->", "new")
    'a <!-- x -->\\nnew\\n<!-- end --> b'
    """
    pattern = re.escape(start) + ".*?" + re.escape(end)
    if len(re.findall(pattern, text, flags=re.DOTALL)) != 1:
        raise SystemExit(f"The page lacks the marks {start} and {end}, or has them twice.")
    return re.sub(pattern, lambda _: f"{start}\n{content}\n{end}", text, flags=re.DOTALL)
