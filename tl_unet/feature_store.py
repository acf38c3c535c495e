"""Where `cache_features` keeps feature maps: in memory or in a folder, one record for each image.

A record is the list of an image's feature maps under a key that follows from its pixels. Whoever adds to a folder writes two files of
its own: `features-ID.bin`, the records one after another, and `features-ID.jsonl`, a line for each of them that is written after its record. So several
processes can add at the same time, and what an interruption cut off has no line, does not count, and has nothing behind it.
"""

import json
import math
import os
import shutil
import uuid
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
    """Records in a folder, mapped into memory when they are read; kept for the next run, which finds what is there when it begins.

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
        self._folder = Path(folder)
        self._header = {"format": 2, "dtype": dtype, **origin}
        self._maps = {}
        self._own = None  # the file of records that this object adds to, and its end
        self._folder.mkdir(parents=True, exist_ok=True)
        for index in sorted(self._folder.glob("*.jsonl")):
            self._load(index)

    def _load(self, index):
        """Reads an index: all lines but one that is being written, or was cut off."""
        lines = index.read_bytes().split(b"\n")[:-1]
        if not lines:
            return
        self._check(self._header, lines[0])
        data, end = index.with_suffix(".bin"), 0
        try:
            for line in lines[1:]:
                key, shapes = json.loads(line)
                self._note(key, (data, end, shapes))
                end += self._size(shapes)
        except ValueError as error:
            raise self._damaged(f"{index} cannot be read ({error})") from error
        if not data.is_file() or data.stat().st_size < end:
            raise self._damaged(f"{data} is shorter than its index says ({end} bytes)")

    def add(self, keys: list[str], maps: list[np.ndarray]) -> None:
        """Adds images, as `MemoryStore.add`; they are on the disk when it returns.

        Raises:
            OSError: if the disk is full; what was there before is intact.
        """
        if not keys:
            return
        data, end = self._own or self._begin()
        # Until all is written: after an interruption, which may leave half a record or half a line, other files are begun.
        self._own = None
        maps = [np.asarray(feature_map, self.dtype) for feature_map in maps]
        shapes = [feature_map.shape[1:] for feature_map in maps]
        with data.open("ab") as file:
            for j in range(len(keys)):
                for feature_map in maps:
                    # NumPy writes no 16-bit float of another package; bytes are bytes.
                    file.write(np.ascontiguousarray(feature_map[j]).view(np.uint8).data)
            _to_disk(file)
        with data.with_suffix(".jsonl").open("a", encoding="utf-8") as file:
            file.writelines(json.dumps([key, shapes]) + "\n" for key in keys)
            _to_disk(file)
        self._maps.pop(data, None)
        for key in keys:
            self._note(key, (data, end, shapes))
            end += self._size(shapes)
        self._own = data, end

    def _begin(self):
        """Two files for this object alone: that of the records is returned, with its end."""
        data = self._folder / f"features-{uuid.uuid4().hex}.bin"
        data.touch()  # first: an index promises that it is there
        data.with_suffix(".jsonl").write_text(json.dumps(self._header) + "\n", encoding="utf-8")
        return data, 0

    def free(self) -> int:
        """Bytes that may be added: what is free on the disk, less one hundredth."""
        return int(0.99 * shutil.disk_usage(self._folder).free)

    def _note(self, key, record):
        """Takes a record in; of one that two processes have added, one counts."""
        if key not in self._records:
            self.nbytes += self._size(record[2])
        self._records[key] = record

    def _record(self, key):
        data, offset, shapes = self._records[key]
        if data not in self._maps:
            self._maps[data] = np.memmap(data, np.uint8, "r")
        record = []
        for shape in shapes:
            size = self._size([shape])
            record.append(self._maps[data][offset : offset + size].view(self.dtype).reshape(shape))
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

    def _damaged(self, what):
        return ValueError(
            f"{what}: delete the folder {self.place}; the features are then computed anew."
        )


def _to_disk(file):
    file.flush()
    os.fsync(file.fileno())
