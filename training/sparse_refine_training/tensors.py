"""Reads and writes safetensors files: a u64 header length, a JSON header, the tensors' bytes.

Written out here because the format is twenty lines and Debian has no package for it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch

DTYPES: dict[str, np.dtype] = {"F32": np.dtype("<f4"), "U8": np.dtype("u1")}


def save(path: str | Path, tensors: Mapping[str, np.ndarray | torch.Tensor], metadata: dict | None = None) -> None:
    """Writes named arrays (float32 or uint8; PyTorch tensors are converted). `metadata`: strings for the header."""
    header: dict[str, dict] = {}
    chunks, offset = [], 0
    if metadata:
        header["__metadata__"] = {key: str(value) for key, value in metadata.items()}
    arrays = {name: _array(name, tensor) for name, tensor in tensors.items()}
    # Floats first, so that each of them starts at a multiple of four bytes.
    for name in sorted(arrays, key=lambda name: (-arrays[name].itemsize, name)):
        array = arrays[name]
        dtype = next(key for key, value in DTYPES.items() if value == array.dtype)
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [offset, offset + array.nbytes]}
        chunks.append(array.tobytes())
        offset += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    Path(path).write_bytes(len(text).to_bytes(8, "little") + text + b"".join(chunks))


def load(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Returns (arrays by name, metadata)."""
    raw = Path(path).read_bytes()
    length = int.from_bytes(raw[:8], "little")
    if length > len(raw) - 8:
        raise ValueError(f"the header claims {length} bytes, the file holds {len(raw) - 8} after it: {path}")
    header = json.loads(raw[8 : 8 + length])
    metadata = header.pop("__metadata__", {})
    data = memoryview(raw)[8 + length :]
    arrays = {}
    for name, entry in header.items():
        if entry["dtype"] not in DTYPES:
            raise ValueError(f"tensor {name} is {entry['dtype']}, supported are {', '.join(DTYPES)}: {path}")
        begin, end = entry["data_offsets"]
        arrays[name] = np.frombuffer(data[begin:end], DTYPES[entry["dtype"]]).reshape(entry["shape"])
    return arrays, metadata


def _array(name: str, tensor: np.ndarray | torch.Tensor) -> np.ndarray:
    array = np.asarray(tensor.detach().cpu().numpy() if hasattr(tensor, "detach") else tensor)
    if array.dtype == np.bool_:
        array = array.astype(np.uint8)
    if array.dtype not in DTYPES.values():
        raise ValueError(f"tensor {name} is {array.dtype}, only float32 and uint8 can be written")
    return np.ascontiguousarray(array)
