"""What a measurement or a training ran on, for its record."""

import os
import platform
from pathlib import Path


def processor() -> str:
    """The processor's name and, as such names say little, the numbers of its family and model."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    known = {
        key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)
    }
    if "model name" not in known:
        return platform.processor() or platform.machine()
    return f"{known['model name']} (family {known.get('cpu family', '?')}, model {known.get('model', '?')})"


def platform_name() -> str:
    """The processor, how many cores it has, and the system."""
    return f"{processor()}, {os.cpu_count()} CPU cores, {platform.system()}"
