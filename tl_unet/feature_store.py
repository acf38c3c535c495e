"""Where `cache_features` keeps feature maps: in memory or in a folder, one record for each image.

A record is the list of an image's feature maps under a key that follows from its pixels. The folder holds `features.bin`, the records
one after another, and `index.jsonl`, a line for each of them that is written after its record: what an interruption cut off has no
line, does not count, and is removed before anything is written behind it.
"""

import json
import math
import os
import shutil
from pathlib import Path

import ml_dtypes
import numpy as np

DTYPES = {
    "float32": np.dtype("float32"),
    "float16": np.dtype("float16"),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}


class MemoryStore:
    """Records in memory.

    Args:
        dtype: str, of the feature maps: `"float32"`, `"float16"` or `"bfloat16"`.

    Attributes:
        nbytes: int, the bytes of all records.

    Example:

    >>> import numpy as np
    >>> from tl_unet.feature_store import MemoryStore
    >>> store = MemoryStore("float16")
    >>> store.add(["a"], [np.zeros((1, 8, 8, 2))])
    >>> store.read(["a", "a"])[0].shape, store.nbytes
    ((2, 8, 8, 2), 256)
    """

    place = "memory"

    def __init__(self, dtype: str):
        self.dtype = DTYPES[dtype]
        self.nbytes = 0
        self._records = {}

    def __contains__(self, key: str) -> bool:
        return key in self._records

    def __len__(self) -> int:
        return len(self._records)

    def add(self, keys: list[str], maps: list[np.ndarray]) -> None:
        """Adds images: `maps[i][j]` is feature map `i` of the image `keys[j]`."""
        for j, key in enumerate(keys):
            record = [np.array(feature_map[j], self.dtype) for feature_map in maps]
            self.nbytes += sum(feature_map.nbytes for feature_map in record)
            self._records[key] = record

    def read(self, keys: list[str]) -> list[np.ndarray]:
        """The feature maps of images of one size, each as an array `(len(keys), height, width, filters)`."""
        records = [self._record(key) for key in keys]
        return [np.stack(feature_maps) for feature_maps in zip(*records, strict=True)]

    def free(self) -> int | None:
        """Bytes that may be added: half of the memory that is available; `None` where the system does not tell."""
        try:
            lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        except OSError:  # not Linux
            return None
        sizes = dict(line.split(":", 1) for line in lines)
        return int(sizes["MemAvailable"].split()[0]) * 1024 // 2

    def _record(self, key):
        return self._records[key]


class FolderStore(MemoryStore):
    """Records in a folder, mapped into memory when they are read; kept for the next run. One process at a time may add.

    Args:
        folder: path; made if it is missing.
        dtype: str, as for `MemoryStore`.
        origin: dict, ready for JSON, of what the features were computed with.

    Raises:
        ValueError: if the folder holds features of another origin, or is damaged.
    """

    def __init__(self, folder: str | os.PathLike, dtype: str, origin: dict):
        super().__init__(dtype)
        self.place = str(folder)
        self._index = Path(folder) / "index.jsonl"
        self._data = Path(folder) / "features.bin"
        self._map = None
        self._header = {"format": 1, "dtype": dtype, **origin}
        self._whole = True
        Path(folder).mkdir(parents=True, exist_ok=True)
        self._load()

    def _load(self):
        """Reads what the folder holds, and removes what an interruption left behind the last whole record and line."""
        lines = self._index.read_bytes().split(b"\n") if self._index.is_file() else [b""]
        if len(lines) == 1:  # nothing, or a first line that was cut off
            self._data.write_bytes(b"")  # first: an index promises that it is there
            self._index.write_text(json.dumps(self._header) + "\n", encoding="utf-8")
            return
        self._check(self._header, lines[0])
        records, end = {}, 0
        for line in lines[1:-1]:
            key, shapes = json.loads(line)
            records[key] = end, shapes
            end += self._size(shapes)
        if not self._data.is_file() or self._data.stat().st_size < end:
            raise ValueError(
                f"{self._data} is shorter than its index says ({end} bytes): delete the folder {self.place}; the features "
                "are then computed anew."
            )
        self._map = None
        os.truncate(self._data, end)
        os.truncate(self._index, sum(len(line) + 1 for line in lines[:-1]))
        self._records, self.nbytes = records, end

    def add(self, keys: list[str], maps: list[np.ndarray]) -> None:
        """Adds images, as `MemoryStore.add`; they are on the disk when it returns.

        Raises:
            OSError: if the disk is full; what was there before is intact.
        """
        if not keys:
            return
        if not self._whole:
            self._load()
        # Until all is written: an interruption may leave half a record or half a line.
        self._whole = False
        maps = [np.asarray(feature_map, self.dtype) for feature_map in maps]
        shapes = [feature_map.shape[1:] for feature_map in maps]
        with self._data.open("ab") as file:
            for j in range(len(keys)):
                for feature_map in maps:
                    # NumPy writes no 16-bit float of another package; bytes are bytes.
                    file.write(np.ascontiguousarray(feature_map[j]).view(np.uint8).data)
            file.flush()
            os.fsync(file.fileno())
        with self._index.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps([key, shapes]) + "\n" for key in keys)
        self._map = None
        for key in keys:
            self._records[key] = self.nbytes, shapes
            self.nbytes += self._size(shapes)
        self._whole = True

    def free(self) -> int:
        """Bytes that may be added: what is free on the disk, less one hundredth."""
        return int(0.99 * shutil.disk_usage(self._data.parent).free)

    def _record(self, key):
        if self._map is None:
            self._map = np.memmap(self._data, np.uint8, "r")
        offset, shapes = self._records[key]
        record = []
        for shape in shapes:
            size = self._size([shape])
            record.append(self._map[offset : offset + size].view(self.dtype).reshape(shape))
            offset += size
        return record

    def _size(self, shapes):
        return self.dtype.itemsize * sum(map(math.prod, shapes))

    def _check(self, header, line):
        try:
            found = json.loads(line)
        except ValueError:
            found = {}
        different = [name for name in header if found.get(name) != header[name]]
        if different:
            changes = "; ".join(
                f"{name} was {found.get(name)!r}, is {header[name]!r}" for name in different
            )
            raise ValueError(
                f"The folder {self.place} holds features that this model did not compute ({changes}). Choose another folder, or "
                "delete it; the features are then computed anew."
            )
