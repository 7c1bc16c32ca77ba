#!/usr/bin/env python3
"""Blanks the machine code of every GPU generation but one in a CUDA library, so that it compresses well.

Usage: prune_cuda_provider.py IN.so OUT.so SM        SM: 80 (A100), 89 (L4, RTX 40), 90 (H100, H200), ...

CUDA libraries hold "fat binaries": a 16-byte header (magic, version, header size, total size), then entries, one a GPU generation, each with a header
(kind, version, header size, payload size; the generation at byte 28) before its code. Only payloads are overwritten, so that every offset stays true.
"""
import struct
import sys

MAGIC = struct.pack("<I", 0xBA55ED50)


def prune(data: bytearray, keep: int) -> int:
    blanked = 0
    at = data.find(MAGIC)
    while at >= 0:
        _, version, header, size = struct.unpack_from("<IHHQ", data, at)
        end = at + header + size
        if version != 1 or header != 16 or end > len(data):
            at = data.find(MAGIC, at + 4)
            continue
        entry = at + header
        while entry < end:
            entry_header, payload = struct.unpack_from("<IQ", data, entry + 4)
            (generation,) = struct.unpack_from("<I", data, entry + 28)
            start = entry + entry_header
            if generation != keep:
                data[start : start + payload] = bytes(payload)
                blanked += payload
            entry = start + payload
        at = data.find(MAGIC, end)
    return blanked


if __name__ == "__main__":
    source, target, generation = sys.argv[1], sys.argv[2], int(sys.argv[3])
    with open(source, "rb") as file:
        content = bytearray(file.read())
    removed = prune(content, generation)
    with open(target, "wb") as file:
        file.write(content)
    print(f"kept sm_{generation}: blanked {removed} of {len(content)} bytes")
