"""Packages of a VM's state (src/migration/FORMAT.md), taken apart and put together again with other contents and right checksums."""
import struct
import zlib

HEADER = 48


class Package:
    def __init__(self, blob):
        self.header, self.sections, at = bytearray(blob[:HEADER]), {}, HEADER
        while at < len(blob):
            length, name, instance = *struct.unpack_from("<I", blob, at), blob[at + 14], blob[at + 15]
            start = at + 16 + name + instance
            words = blob[at + 16:start].decode()
            self.sections[words[:name], words[name:]] = (bytearray(blob[at:start]), bytearray(blob[start:start + length]))
            at = start + length

    def bytes(self):
        out = b""
        for head, payload in self.sections.values():
            struct.pack_into("<I", head, 0, len(payload))
            struct.pack_into("<I", head, 4, zlib.crc32(payload, zlib.crc32(head[8:], zlib.crc32(head[:4]))))
            out += head + payload
        struct.pack_into("<Q", self.header, 16, HEADER + len(out))
        struct.pack_into("<I", self.header, 44, zlib.crc32(self.header[:44]))
        return bytes(self.header) + out

    def places(self, name, instance="", payload=None, base=0, path=()):
        """(tags and indexes, offset in the payload, bytes) of every scalar of a section."""
        data = self.sections[name, instance][1]
        at, end = base, len(data) if payload is None else base + payload
        while at < end:
            tag, kind, size, count = struct.unpack_from("<HBBI", data, at)
            at += 8
            for i in range(count):
                length = struct.unpack_from("<I", data, at)[0] if kind == 4 else size
                if kind == 4:
                    at += 4
                    yield from self.places(name, instance, length, at, (*path, tag, i))
                else:
                    yield (*path, tag, i), at, size
                at += length

    def get(self, name, instance, *path):
        at, size = self._find(name, instance, path)
        return int.from_bytes(self.sections[name, instance][1][at:at + size], "little")

    def set(self, name, instance, path, value):
        at, size = self._find(name, instance, path)
        self.sections[name, instance][1][at:at + size] = value.to_bytes(size, "little")

    def _find(self, name, instance, path):
        return next((at, size) for p, at, size in self.places(name, instance) if p == tuple(path))
