"""From the values that mask files store (numbers, palette indices, colours) to class indices."""

from collections.abc import Mapping, Sequence

import numpy as np

from tl_unet.classes import IGNORE

_OBJECT_OR_IGNORED = (
    ": is 255 the object or a pixel to ignore? Say it: labels={0: 0, 1: 1, 255: 255} or "
    "labels={0: 0, 1: 1, 255: 1}"
)


class LabelTable:
    """Maps the values that a mask file stores to classes.

    Args:
        labels: Mapping from a stored value (an int in 0..65535, or an `(r, g, b)` tuple) to a class,
            or a sequence of stored values whose positions are the classes. The key `None` stands
            for every other value. `None` takes the masks as they are: 0 and 1 (or 0 and 255) for
            one class, class indices and 255 for ignored pixels for more. Defaults to `None`.
        classes: int, the number of classes; 1 is binary. `None` counts them in `labels`.
            Defaults to `None`.

    Raises:
        ValueError: If the labels and `classes` contradict each other.
    """

    def __init__(self, labels: Mapping | Sequence | None = None, classes: int | None = None):
        self.colours = False
        self.plain = labels is None
        self.plain_binary = self.plain and classes in (None, 1)
        self._met = set()  # 1 for any object, IGNORE for 255: what all the masks so far held
        if self.plain_binary:
            labels = {0: 0, 1: 1, 255: 1}
        elif labels is None:
            labels = {i: i for i in range(classes)} | {IGNORE: IGNORE}
        elif not isinstance(labels, Mapping):
            values = [tuple(v) if isinstance(v, list) else v for v in labels]
            labels = {value: index for index, value in enumerate(values)}
        targets = [int(target) for target in labels.values()]
        if not targets or min(targets) < 0 or max(targets) > IGNORE:
            raise ValueError(
                f"`labels` must map to classes 0..254, or 255 to ignore a pixel. Received: {labels}"
            )
        top = max((target for target in targets if target != IGNORE), default=0)
        self.classes = classes if classes is not None else (1 if top <= 1 else top + 1)
        if self.classes < 1 or top > max(1, self.classes - 1):
            raise ValueError(
                f"`labels` name the class {top}, but classes={self.classes} has "
                f"{'only 0 and 1' if self.classes == 1 else f'only 0..{self.classes - 1}'}."
            )
        keys = [value for value in labels if value is not None]
        self.colours = any(isinstance(value, tuple) for value in keys)
        self.values = {self._code(value): int(labels[value]) for value in keys}
        self.other = int(labels.get(None, -1))
        self._table = np.full(1 << 24 if self.colours else 1 << 16, self.other, np.int16)
        for value, target in self.values.items():
            self._table[value] = target

    def _code(self, value) -> int:
        parts = tuple(value) if isinstance(value, tuple) else (value,)
        sizes, top = ((3,), 255) if self.colours else ((1,), 65535)
        if len(parts) not in sizes or any(int(p) != p or not 0 <= p <= top for p in parts):
            raise ValueError(
                "The keys of `labels` must all be integers in 0..65535, or all (red, green, blue) "
                f"tuples in 0..255. Received: {value!r}"
            )
        return int(parts[0]) if len(parts) == 1 else int(np.dot(parts, (65536, 256, 1)))

    def _show(self, code) -> str:
        code = int(code)
        return str((code >> 16, code >> 8 & 255, code & 255)) if self.colours else str(code)

    def __call__(self, mask: np.ndarray) -> np.ndarray:
        """Returns `mask` as uint8 classes; raises ValueError naming the values it does not know."""
        known = (mask >= 0) & (mask < len(self._table))
        classes = np.where(known, self._table[np.where(known, mask, 0)], self.other)
        if (classes < 0).any():
            found = np.unique(mask[classes < 0])
            shown = ", ".join(map(self._show, found[:10])) + (", ..." if len(found) > 10 else "")
            raise ValueError(
                f"unexpected mask value{'s' if len(found) > 1 else ''} {shown}; expected "
                f"{', '.join(map(self._show, sorted(self.values)[:20]))}. Give `labels` to map them"
                + (" (JPEG blurs labels: save masks as PNG)" if len(found) > 10 else "")
            )
        if self.plain:
            top = (mask == IGNORE).any()
            one = ((mask > 0) & (mask < IGNORE)).any()
            if self.plain_binary and one and top:
                raise ValueError(f"the values 1 and 255 in one mask{_OBJECT_OR_IGNORED}")
            self._met |= {IGNORE} if top else set()
            self._met |= {1} if one else set()
        return classes.astype(np.uint8)

    def contradiction(self) -> str | None:
        """What is wrong with the masks so far taken together, though each alone is as it may be; `None` if nothing is."""
        if self.plain_binary and self._met == {1, IGNORE}:
            return f"the value 1 in some masks and 255 in others{_OBJECT_OR_IGNORED}"
        if self.plain and not self.plain_binary and self._met == {IGNORE}:
            return (
                f"the masks hold 255 and no class from 1 to {self.classes - 1}: with classes={self.classes} 255 is a pixel to "
                "ignore, and nothing but background is left. If 255 is the object, say classes=1, or labels={0: 0, 255: 1}; if it "
                "is to be ignored, labels={0: 0, 1: 1, 255: 255}, with all classes"
            )
        return None
