#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the hand-made part of corpus/gguf: valid headers, and each rule broken once."""
import os
import struct

OUT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "corpus", "gguf")
U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
FORMATS = {U8: "B", I8: "b", U16: "H", I16: "h", U32: "I", I32: "i", F32: "f", BOOL: "B",
           U64: "Q", I64: "q", F64: "d"}


def string(text):
    data = text if isinstance(text, bytes) else text.encode()
    return struct.pack("<Q", len(data)) + data


def raw(kind, value):
    return string(value) if kind == STRING else struct.pack("<" + FORMATS[kind], value)


def kv(key, kind, value):
    return string(key) + struct.pack("<I", kind) + raw(kind, value)


def array(key, kind, values, count=None):
    count = len(values) if count is None else count
    return (string(key) + struct.pack("<IIQ", ARRAY, kind, count)
            + b"".join(raw(kind, value) for value in values))


def tensor(name, dims, kind=0, offset=0, n_dims=None):
    n_dims = len(dims) if n_dims is None else n_dims
    return (string(name) + struct.pack("<I%dQ" % len(dims), n_dims, *dims)
            + struct.pack("<IQ", kind, offset))


def header(values, tensors, version=3, magic=b"GGUF", n_values=None, n_tensors=None):
    n_values = len(values) if n_values is None else n_values
    n_tensors = len(tensors) if n_tensors is None else n_tensors
    return (magic + struct.pack("<IQQ", version, n_tensors, n_values)
            + b"".join(values) + b"".join(tensors))


ARCH = kv("general.architecture", STRING, "llama")
EVERY_KIND = [ARCH, kv("u8", U8, 200), kv("i8", I8, -3), kv("u16", U16, 60000),
              kv("i16", I16, -3), kv("u32", U32, 1 << 31), kv("i32", I32, -3), kv("f32", F32, 1.5),
              kv("bool", BOOL, 1), kv("u64", U64, 1 << 63), kv("i64", I64, -3), kv("f64", F64, 2.5),
              kv("empty", STRING, ""), kv("bytes", STRING, b"\x00\xff\n")]
EVERY_ARRAY = [array("a.u8", U8, [1, 2]), array("a.i8", I8, [-1]), array("a.i16", I16, [-2, 3]),
               array("a.u32", U32, [1, 2, 3]), array("a.f32", F32, [0.5, -1]),
               array("a.bool", BOOL, [0, 1, 1]), array("a.u64", U64, [1 << 63]),
               array("a.f64", F64, [0.5]), array("a.none", I32, []), array("a.nostr", STRING, []),
               array("tokenizer.ggml.tokens", STRING, ["<s>", "", "\u2581a"])]
TWO = [tensor("a", [8, 2]), tensor("b", [32], 8, 64)]
WHOLE = header(EVERY_KIND + EVERY_ARRAY, TWO)

CASES = {
    "ok-no-tensors": header([ARCH], []),
    "ok-nothing": header([], []),
    "ok-every-kind": WHOLE,
    "ok-version-2": header([ARCH], TWO, version=2),
    "ok-padded": header([ARCH], TWO) + bytes(64),
    "ok-alignment-1": header([kv("general.alignment", U32, 1)],
                             [tensor("a", [3]), tensor("b", [1], 1, 12)]),
    "ok-alignment-4096": header([kv("general.alignment", U32, 4096)],
                                [tensor("a", [3]), tensor("b", [1], 1, 4096)]),
    "ok-four-dims": header([ARCH], [tensor("a", [256, 3, 2, 5], 12)]),
    "ok-experts-5g": header([ARCH], [tensor("blk.1.ffn_up_exps.weight", [5120, 8192, 128], 12)]),
    "ok-type-without-kernels": header([ARCH], [tensor("a", [256, 1], 16)]),
    "ok-split-keys": header([kv("split.no", U16, 0), kv("split.count", U16, 2),
                             kv("split.tensors.count", I32, 3)], TWO),
    "ok-name-63": header([], [tensor("n" * 63, [1])]),
    "ok-near-2-64": header([], [tensor("a", [1 << 61])]),
    "bad-empty": b"",
    "bad-magic": header([ARCH], TWO, magic=b"GGML"),
    "bad-version-1": header([ARCH], TWO, version=1),
    "bad-version-4": header([ARCH], TWO, version=4),
    "bad-big-endian": header([ARCH], TWO, version=3 << 24),
    "bad-many-tensors": header([ARCH], TWO, n_tensors=1 << 60),
    "bad-limit-tensors": header([ARCH], TWO, n_tensors=(1 << 20) + 1),
    "bad-more-tensors": header([ARCH], TWO, n_tensors=3),
    "bad-many-values": header([ARCH], TWO, n_values=1 << 60),
    "bad-value-type": header([string("k") + struct.pack("<I", 13) + bytes(8)], []),
    "bad-element-type": header([array("k", U8, [1]).replace(struct.pack("<II", ARRAY, U8),
                                                            struct.pack("<II", ARRAY, 99))], []),
    "bad-nested-array": header([string("k") + struct.pack("<IIQ", ARRAY, ARRAY, 1) + bytes(32)], []),
    "bad-array-count": header([array("k", U8, [1], count=1 << 40)], []),
    "bad-array-long": header([array("k", U64, [1], count=1 << 30)], []),
    "bad-array-overflow": header([array("k", U64, [1], count=1 << 61)], []),
    "bad-strings-count": header([array("k", STRING, ["a"], count=1 << 29)], []),
    "bad-string-length": header([string("k") + struct.pack("<IQ", STRING, 1 << 29)], []),
    "bad-string-cap": header([string("k") + struct.pack("<IQ", STRING, 1 << 62)], []),
    "bad-key-length": header([struct.pack("<Q", (1 << 64) - 1) + b"k" + bytes(16)], []),
    "bad-key-empty": header([kv("", U32, 1)], []),
    "bad-key-control": header([kv("a\nb", U32, 1)], []),
    "bad-key-twice": header([kv("k", U32, 1), ARCH, kv("k", U8, 1)], []),
    "bad-alignment-0": header([kv("general.alignment", U32, 0)], TWO),
    "bad-alignment-24": header([kv("general.alignment", U32, 24)], TWO),
    "bad-alignment-type": header([kv("general.alignment", STRING, "32")], TWO),
    "bad-alignment-u64": header([kv("general.alignment", U64, 32)], TWO),
    "bad-tensor-name-64": header([], [tensor("n" * 64, [1])]),
    "bad-tensor-name-empty": header([], [tensor("", [1]) + bytes(64)]),
    "bad-tensor-name-nul": header([], [tensor("a\0b", [1])]),
    "bad-tensor-twice": header([], [tensor("a", [1]), tensor("a", [1], 0, 32)]),
    "bad-dims-0": header([], [tensor("a", [0])]),
    "bad-dims-none": header([], [tensor("a", []) + bytes(64)]),
    "bad-dims-5": header([], [tensor("a", [1, 1, 1, 1, 1])]),
    "bad-dims-many": header([], [tensor("a", [1], n_dims=1 << 31)]),
    "bad-dims-product": header([], [tensor("a", [1 << 32, 1 << 32])]),
    "bad-dims-2-63": header([], [tensor("a", [1 << 63])]),
    "bad-dims-bytes": header([], [tensor("a", [1 << 62])]),
    "bad-row": header([], [tensor("a", [33, 2], 8)]),
    "bad-row-k": header([], [tensor("a", [128, 2], 12)]),
    "bad-type-retired": header([], [tensor("a", [32], 4)]),
    "bad-type-ik": header([], [tensor("a", [256], 139)]),
    "bad-type-huge": header([], [tensor("a", [256], (1 << 32) - 1)]),
    "bad-offset-unaligned": header([], [tensor("a", [8]), tensor("b", [8], 0, 33)]),
    "bad-offset-overlap": header([], [tensor("a", [16]), tensor("b", [8], 0, 32)]),
    "bad-offset-gap": header([], [tensor("a", [8]), tensor("b", [8], 0, 96)]),
    "bad-offset-first": header([], [tensor("a", [8], 0, 32)]),
    "bad-offset-2-64": header([], [tensor("a", [1 << 61], 0), tensor("b", [1 << 61], 0, 1 << 63)]),
}


def main():
    os.makedirs(OUT, exist_ok=True)
    cases = dict(CASES)
    for n in list(range(1, 28)) + list(range(28, len(WHOLE), 61)):
        cases["cut-%04d" % n] = WHOLE[:n]
    for name, data in cases.items():
        with open(os.path.join(OUT, name), "wb") as file:
            file.write(data)


main()
