# SPDX-License-Identifier: Apache-2.0
"""Writes GGUF files, version 3."""
import struct

import numpy as np

ALIGNMENT = 32
U32, I32, F32, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9
BLOCK = 32  # values of a block of Q8_0


def string(text):
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def value(item):
    """(kind, bytes) of a Python value: bool, int, float, str, a list of str or of int"""
    if isinstance(item, bool):
        return BOOL, struct.pack("<?", item)
    if isinstance(item, int):
        return U32, struct.pack("<I", item)
    if isinstance(item, float):
        return F32, struct.pack("<f", item)
    if isinstance(item, str):
        return STRING, string(item)
    if isinstance(item[0], str):
        return ARRAY, struct.pack("<IQ", STRING, len(item)) + b"".join(map(string, item))
    return ARRAY, struct.pack(f"<IQ{len(item)}i", I32, len(item), *item)


def q8_0(x):
    """Blocks of 32 values, each an f16 scale and 32 signed bytes."""
    blocks = x.astype(np.float32).reshape(-1, BLOCK)
    scales = np.abs(blocks).max(1) / np.float32(127)
    with np.errstate(divide="ignore"):
        inverse = np.where(scales > 0, 1 / scales, 0)[:, None]
    # Halves go away from zero, as in C's roundf.
    scaled = blocks * inverse
    rounded = np.trunc(scaled + np.copysign(np.float32(0.5), scaled)).astype(np.int8)
    out = np.empty(len(blocks), np.dtype([("d", "<f2"), ("q", "i1", BLOCK)]))
    out["d"], out["q"] = scales, rounded
    return out.tobytes()


TYPES = {"F32": (0, lambda x: x.astype("<f4").tobytes()),
         "F16": (1, lambda x: x.astype("<f2").tobytes()), "Q8_0": (8, q8_0)}


def padding(n):
    return bytes(-n % ALIGNMENT)


def write(path, metadata, tensors):
    """metadata: {key: value}; tensors: {name: (type, array)}, a row the last dimension."""
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(metadata))
    for key, item in metadata.items():
        kind, data = value(item)
        head += string(key) + struct.pack("<I", kind) + data
    body = b""
    for name, (type_, array) in tensors.items():
        number, encode = TYPES[type_]
        head += string(name) + struct.pack(f"<I{array.ndim}QIQ", array.ndim, *array.shape[::-1],
                                           number, len(body))
        body += encode(array)
        body += padding(len(body))
    with open(path, "wb") as file:
        file.write(head + padding(len(head)) + body)
