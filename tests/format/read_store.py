#!/usr/bin/env python3
"""Reads a store from docs/format.md alone, without the library, and checks every byte that has a checksum.

    read_store.py [--list] [--slow] DIR...

Prints one JSON object: records, bad, bytes as `kvstow verify --json` counts them, and what is bad. --list
adds every record and the cache's account of it. --slow uses no libxxhash (and so checks no keys: they are
XXH3-128). Exit code: 0 all good, 1 something bad, 2 not a store that can be read.
"""
import argparse
import json
import os
import re
import struct
import sys

import xxh3

PAGE, RUN = 4096, 65536
RECORD_BYTES, ENTRY_BYTES, TAG_BYTES, DESCRIPTION_BYTES = 160, 104, 64, 112
ERASED = 1
OPEN, CLEAN, SEALED = 1, 2, 3


class Refused(Exception):
    """The store, or the whole of it, can't be read; the text names file, offset and cause."""


class Checksums:
    def __init__(self, slow):
        self.native = None if slow else xxh3.native()
        self.xxh3 = self.native.xxh3_64 if self.native else xxh3.xxh3_64

    def page_is_good(self, page, field):
        found = struct.unpack_from("<Q", page, field)[0]
        return self.xxh3(page[:field] + bytes(8) + page[field + 8:]) == found

    def plane(self, plane, part_bytes):
        if part_bytes == 0:
            return self.xxh3(plane)
        parts = self.xxh3(plane[:part_bytes]), self.xxh3(plane[part_bytes:])
        return self.xxh3(struct.pack("<QQ", *parts))


def page_at(file, offset):
    """The page, or None if it is not all there."""
    if offset < 0:
        return None
    try:
        page = os.pread(file, PAGE, offset)
    except OSError:
        return None
    return page if len(page) == PAGE else None


# ---- super ---------------------------------------------------------------------------------------


class Super:
    def __init__(self, page):
        (self.magic, self.endian, self.version, self.uuid, self.seed, self.segment_bytes, self.header_bytes,
         self.dir_index, self.dir_count, self.created,
         self.cipher) = struct.unpack_from("<8sII16sQIIIIQI", page)

    def is_sound(self):
        size = self.segment_bytes
        return (1 << 20 <= size <= 1 << 30 and size & (size - 1) == 0 and self.header_bytes == PAGE
                and 1 <= self.dir_count <= 16 and self.dir_index < self.dir_count)


def read_super(checksums, directory):
    path = os.path.join(directory, "super")
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError as error:
        raise Refused(f"{path}: {error.strerror}") from error
    try:
        pages = [page_at(file, 0), page_at(file, PAGE)]
    finally:
        os.close(file)
    why = f"{path}: no page of it can be read"
    good = {}
    for page in pages:
        if page is None:
            continue
        copy = Super(page)
        if copy.magic != b"kvsuper!":
            why = f"{path}: offset 0: magic {copy.magic!r}, expected b'kvsuper!'"
        elif copy.endian != 0x01020304:
            why = f"{path}: offset 8: endian mark {copy.endian:#010x}, expected 0x01020304"
        elif copy.version != 1:
            why = f"{path}: offset 12: version {copy.version}, expected 1"
        elif not checksums.page_is_good(page, 4088):
            why = f"{path}: offset 4088: checksum mismatch"
        elif not copy.is_sound():
            why = f"{path}: offset 40: impossible geometry"
        elif copy.cipher != 0:
            why = f"{path}: offset 64: encrypted (cipher {copy.cipher})"
        else:
            good[page] = copy
    if len(good) > 1:
        raise Refused(f"{path}: two good copies that differ")
    for copy in good.values():
        return copy
    raise Refused(why)


# ---- records -------------------------------------------------------------------------------------


class Header:
    def __init__(self, page):
        (self.magic, self.version, self.flags, self.uuid, self.sequence, self.nonce, self.page, self.planes,
         self.owner_bytes, self.plane_bytes, self.part_bytes, self.key, self.written,
         self.checksum, self.tag) = struct.unpack_from("<8sII16sQQIHHII16sQQ64s", page)
        self.raw = page

    def is_sound(self, segment_bytes):
        return (1 <= self.planes <= 492 and self.plane_bytes > 0 and self.plane_bytes % PAGE == 0
                and self.owner_bytes <= 3936 - 8 * self.planes
                and (self.part_bytes == 0 or self.part_bytes < self.plane_bytes)
                and self.page * PAGE + PAGE + self.planes * self.plane_bytes <= segment_bytes - PAGE)

    def sum(self, plane):
        return struct.unpack_from("<Q", self.raw, RECORD_BYTES + 8 * plane)[0]

    def description(self):
        at = RECORD_BYTES + 8 * self.planes
        return self.raw[at:at + self.owner_bytes]


class Entry:
    """A record as a table, or a walk, tells of it."""

    def __init__(self, key, page, planes, plane_bytes, flags, written, tag):
        self.key, self.page, self.planes, self.plane_bytes = key, page, planes, plane_bytes
        self.flags, self.written, self.tag = flags, written, tag

    def end(self):
        return self.page * PAGE + PAGE + self.planes * self.plane_bytes


class Segment:
    def __init__(self, store, number, path):
        self.store, self.number, self.path = store, number, path
        self.file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        self.life = None
        self.entries = []

    def close(self):
        os.close(self.file)

    def header(self, offset, life):
        """The good header there of that life (None: of any), or None."""
        page = page_at(self.file, offset)
        if page is None:
            return None
        header = Header(page)
        if header.magic != b"kvrecord" or header.version != 1 or header.uuid != self.store.uuid:
            return None
        if not self.store.checksums.page_is_good(page, 88):
            return None
        if header.sequence == 0 or life not in (None, (header.sequence, header.nonce)):
            return None
        if header.page * PAGE != offset or not header.is_sound(self.store.segment_bytes):
            return None
        return header

    def footer(self):
        """(state, life, end_offset, entries) of a good trailer; entries None if its table is not good."""
        size = self.store.segment_bytes
        page = page_at(self.file, size - PAGE)
        if page is None:
            return None
        (magic, version, state, uuid, sequence, nonce, segment_bytes, records, end, table_at,
         table_sum) = struct.unpack_from("<8sII16sQQIIQQQ", page)
        if magic != b"kvfooter" or version != 1 or uuid != self.store.uuid or sequence == 0:
            return None
        if not self.store.checksums.page_is_good(page, 4088):
            return None
        expected = size - PAGE - (records * ENTRY_BYTES + PAGE - 1) // PAGE * PAGE
        if (segment_bytes != size or state not in (OPEN, CLEAN, SEALED) or table_at != expected
                or end > table_at or end % PAGE != 0):
            return None
        return state, (sequence, nonce), end, self.table(table_at, records, table_sum, end)

    def table(self, at, records, checksum, limit):
        if at < 0:
            return None
        table = os.pread(self.file, records * ENTRY_BYTES, at)
        if len(table) != records * ENTRY_BYTES or self.store.checksums.xxh3(table) != checksum:
            return None
        entries = [Entry(*fields) for fields in struct.iter_unpack("<16sIIIIQ64s", table)]
        end = 0
        for entry in entries:
            if not (1 <= entry.planes <= 492 and entry.plane_bytes > 0 and entry.plane_bytes % PAGE == 0):
                return None
            if entry.page * PAGE < end or entry.end() > limit:
                return None
            end = entry.end()
        return entries

    def walk(self, at, life):
        entries = []
        while at + 2 * PAGE <= self.store.segment_bytes:
            header = self.header(at, life)
            if header is None:
                if at % RUN == 0:
                    break
                at += RUN - at % RUN
                continue
            life = (header.sequence, header.nonce)
            entry = Entry(header.key, header.page, header.planes, header.plane_bytes, header.flags,
                          header.written, header.tag)
            if entry.flags & ERASED or self.planes_are_good(header):
                entries.append(entry)
            at = entry.end()
        return life, entries

    def find(self):
        """Which records there are, as "Finding the records of a segment" says."""
        footer, first = self.footer(), self.header(0, None)
        if footer is not None and footer[3] is not None:
            state, life, end, entries = footer
            if first is None or first.sequence <= life[0]:
                self.life, self.entries = life, entries
                if state != SEALED:
                    self.entries = entries + self.walk(end, life)[1]
                return
        self.life, self.entries = self.walk(0, None)

    def planes_are_good(self, header):
        at = header.page * PAGE + PAGE
        for plane in range(header.planes):
            data = os.pread(self.file, header.plane_bytes, at + plane * header.plane_bytes)
            if len(data) != header.plane_bytes:
                return False
            if self.store.checksums.plane(data, header.part_bytes) != header.sum(plane):
                return False
        return True

    def fault(self, entry):
        """What is wrong with a record that is said to be there; None: nothing."""
        header = self.header(entry.page * PAGE, self.life)
        if header is None:
            return "no good header page"
        if header.flags & ERASED:
            return "erased, but its table says nothing of that"
        if header.key != entry.key or (header.planes, header.plane_bytes) != (entry.planes, entry.plane_bytes):
            return "header and table differ"
        if not self.planes_are_good(header):
            return "a plane's checksum differs"
        return self.store.fault_of_cache(header, entry)


# ---- the cache's account -------------------------------------------------------------------------


class Block:
    """Description of a block, checked against itself; None from read() if it is none."""

    @staticmethod
    def read(description):
        if len(description) < DESCRIPTION_BYTES or description[:8] != b"lokvBLK1":
            return None
        block = Block()
        (block.space, block.root, block.parent, block.depth, block.tokens, block.payload_bytes, block.layers,
         block.k_bytes, block.v_bytes, name) = struct.unpack_from("<8x16s16s16sIIIIII32s", description)
        block.name = name.split(b"\0")[0].decode("utf-8", "replace")
        block.token_bytes = description[DESCRIPTION_BYTES:]
        return block if len(block.token_bytes) == 4 * block.tokens else None

    def tag(self):
        return struct.pack("<16s16s16sIIII", self.root, self.parent, self.space, self.depth, self.tokens,
                           self.payload_bytes, self.layers)

    def account(self):
        return {"space": self.name, "depth": self.depth, "tokens": self.tokens, "layers": self.layers,
                "payload_bytes": self.payload_bytes}


# ---- a store -------------------------------------------------------------------------------------


class Store:
    def __init__(self, directories, slow=False):
        self.checksums = Checksums(slow)
        supers = [read_super(self.checksums, directory) for directory in directories]
        for i, s in enumerate(supers):
            if (s.dir_index, s.dir_count) != (i, len(supers)) or s.uuid != supers[0].uuid:
                raise Refused(f"{directories[i]}/super: offset 48: directory {s.dir_index} of {s.dir_count}"
                              f" of its store, given as {i} of {len(supers)}")
        self.uuid, self.seed = supers[0].uuid, supers[0].seed
        self.segment_bytes = supers[0].segment_bytes
        self.paths = {}
        for i, directory in enumerate(directories):
            for name in os.listdir(directory):
                match = re.fullmatch(r"seg-(\d{6,})\.kvs", name)
                if not match or name != f"seg-{int(match[1]):06}.kvs":
                    continue
                if int(match[1]) % len(supers) != i:
                    raise Refused(f"{directory}/{name}: does not belong in this directory")
                self.paths[int(match[1])] = os.path.join(directory, name)

    def hash128(self, data):
        low, high = self.checksums.native.xxh3_128(data, self.seed)
        return struct.pack("<QQ", low, high)

    def fault_of_cache(self, header, entry):
        block = Block.read(header.description())
        if block is None:
            return None  # another owner's
        if header.tag != entry.tag or block.tag() != entry.tag:
            return "description and tag differ"
        if header.planes != max(block.layers, 1):
            return "planes are not layers"
        if block.layers and block.tokens * (block.k_bytes + block.v_bytes) > header.plane_bytes:
            return "rows do not fit their plane"
        if self.checksums.native:
            key = self.hash128(block.parent + self.hash128(block.token_bytes))
            if key != header.key:
                return "key is not that of its parent and tokens"
        return None

    def verify(self, listed):
        result = {"records": 0, "bad": 0, "bytes": 0, "bad_records": []}
        if listed:
            result["list"] = []
        for number in sorted(self.paths):
            segment = Segment(self, number, self.paths[number])
            try:
                segment.find()
                for entry in segment.entries:
                    if entry.flags & ERASED:
                        continue
                    result["records"] += 1
                    result["bytes"] += PAGE + entry.planes * entry.plane_bytes
                    why = segment.fault(entry)
                    place = {"segment": number, "offset": entry.page * PAGE, "key": entry.key[::-1].hex()}
                    if why:
                        result["bad"] += 1
                        result["bad_records"].append({**place, "cause": why})
                    elif listed:
                        header = segment.header(entry.page * PAGE, segment.life)
                        block = Block.read(header.description())
                        result["list"].append({**place, "planes": entry.planes, "plane_bytes": entry.plane_bytes,
                                               **(block.account() if block else {})})
            finally:
                segment.close()
        return result


def main():
    parser = argparse.ArgumentParser(description="Reads a kvstow store from docs/format.md alone.")
    parser.add_argument("--list", action="store_true", help="every record")
    parser.add_argument("--slow", action="store_true", help="no libxxhash")
    parser.add_argument("dirs", metavar="DIR", nargs="+")
    args = parser.parse_args()
    try:
        result = Store(args.dirs, args.slow).verify(args.list)
    except Refused as error:
        print(error, file=sys.stderr)
        return 2
    json.dump(result, sys.stdout, indent=1)
    print()
    return 1 if result["bad"] else 0


if __name__ == "__main__":
    sys.exit(main())
