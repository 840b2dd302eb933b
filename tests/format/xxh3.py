"""XXH3-64 (seed 0) in plain Python: the checksum of the SSD format.

After the specification in xxHash's doc/xxhash_spec.md (XXH3). Slow, some 10 MB/s at best: fast() finds
libxxhash where there is one.
"""
import ctypes
import ctypes.util
import struct

M32, M64 = (1 << 32) - 1, (1 << 64) - 1
P32_1, P32_2, P32_3 = 0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D
P64_1, P64_2, P64_3 = 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9
P64_4, P64_5 = 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5
MX1, MX2 = 0x165667919E3779F9, 0x9FB21C651E98DF25

SECRET = bytes.fromhex(
    "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671f"
    "cb79e64eccc0e578825ad07dccff7221b8084674f743248ee03590e6813a264c"
    "3c2852bb91c300cb88d0658b1b532ea371644897a20df94e3819ef46a9deacd8"
    "a8fa763fe39c343ff9dcbbc7c70b4f1d8a51e04bcdb45931c89f7ec9d9787364"
    "eac5ac8334d3ebc3c581a0fffa1363eb170ddd51b7f0da49d316552629d4689e"
    "2b16be587d47a1fc8ff8b8d17ad031ce45cb3a8f95160428afd7fbcabb4b407e"
)


def u32(b, at):
    return struct.unpack_from("<I", b, at)[0]


def u64(b, at):
    return struct.unpack_from("<Q", b, at)[0]


def swap64(x):
    return int.from_bytes(x.to_bytes(8, "little"), "big")


def rotl64(x, n):
    return (x << n | x >> (64 - n)) & M64


def fold(a, b):
    product = a * b
    return (product & M64) ^ (product >> 64)


def avalanche(h):
    h ^= h >> 37
    h = h * MX1 & M64
    return h ^ h >> 32


def avalanche64(h):
    h ^= h >> 33
    h = h * P64_2 & M64
    h ^= h >> 29
    h = h * P64_3 & M64
    return h ^ h >> 32


def mix16(data, at, secret):
    return fold(u64(data, at) ^ u64(SECRET, secret), u64(data, at + 8) ^ u64(SECRET, secret + 8))


def short(data):
    n = len(data)
    if n == 0:
        return avalanche64(u64(SECRET, 56) ^ u64(SECRET, 64))
    if n <= 3:
        word = data[0] << 16 | data[n >> 1] << 24 | data[n - 1] | n << 8
        return avalanche64(word ^ u32(SECRET, 0) ^ u32(SECRET, 4))
    if n <= 8:
        word = u32(data, n - 4) + (u32(data, 0) << 32)
        h = word ^ u64(SECRET, 8) ^ u64(SECRET, 16)
        h ^= rotl64(h, 49) ^ rotl64(h, 24)
        h = h * MX2 & M64
        h ^= (h >> 35) + n
        h = h * MX2 & M64
        return h ^ h >> 28
    low = u64(data, 0) ^ u64(SECRET, 24) ^ u64(SECRET, 32)
    high = u64(data, n - 8) ^ u64(SECRET, 40) ^ u64(SECRET, 48)
    return avalanche((n + swap64(low) + high + fold(low, high)) & M64)


def middle(data):
    n = len(data)
    acc = n * P64_1
    if n <= 128:
        for i in range((n - 1) // 32, -1, -1):
            acc += mix16(data, 16 * i, 32 * i) + mix16(data, n - 16 * (i + 1), 32 * i + 16)
        return avalanche(acc & M64)
    for i in range(8):
        acc += mix16(data, 16 * i, 16 * i)
    acc = avalanche(acc & M64)
    for i in range(8, n // 16):
        acc += mix16(data, 16 * i, 16 * (i - 8) + 3)
    acc += mix16(data, n - 16, 136 - 17)
    return avalanche(acc & M64)


KEYS = [struct.unpack_from("<8Q", SECRET, 8 * i) for i in range(17)]  # of a stripe; the last: of a scramble
KEY_END = struct.unpack_from("<8Q", SECRET, 192 - 64 - 7)


def stripe(acc, words, keys):
    for i in range(8):
        value = words[i]
        key = value ^ keys[i]
        acc[i ^ 1] += value
        acc[i] += (key & M32) * (key >> 32)


def long(data):
    n = len(data)
    acc = [P32_3, P64_1, P64_2, P64_3, P64_4, P32_2, P64_5, P32_1]
    for index in range((n - 1) // 64):
        stripe(acc, struct.unpack_from("<8Q", data, 64 * index), KEYS[index % 16])
        if index % 16 == 15:
            for i in range(8):
                value = acc[i] & M64
                acc[i] = (value ^ value >> 47 ^ KEYS[16][i]) * P32_1 & M64
    stripe(acc, struct.unpack_from("<8Q", data, n - 64), KEY_END)
    acc = [value & M64 for value in acc]
    h = n * P64_1
    for i in range(4):
        h += fold(acc[2 * i] ^ u64(SECRET, 11 + 16 * i), acc[2 * i + 1] ^ u64(SECRET, 19 + 16 * i))
    return avalanche(h & M64)


def xxh3_64(data):
    n = len(data)
    if n <= 16:
        return short(data)
    return middle(data) if n <= 240 else long(data)


class Hash128(ctypes.Structure):
    _fields_ = [("low", ctypes.c_uint64), ("high", ctypes.c_uint64)]


class Native:
    """libxxhash: the same XXH3-64, and the seeded XXH3-128 of the cache's keys as (low, high)."""

    def __init__(self, library):
        self.library = library
        library.XXH3_64bits.restype = ctypes.c_uint64
        library.XXH3_64bits.argtypes = [ctypes.c_char_p, ctypes.c_size_t]
        library.XXH3_128bits_withSeed.restype = Hash128
        library.XXH3_128bits_withSeed.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint64]

    def xxh3_64(self, data):
        return self.library.XXH3_64bits(bytes(data), len(data))

    def xxh3_128(self, data, seed):
        h = self.library.XXH3_128bits_withSeed(bytes(data), len(data), seed)
        return h.low, h.high


def native():
    """libxxhash, or None."""
    try:
        name = ctypes.util.find_library("xxhash")
        return Native(ctypes.CDLL(name)) if name else None
    except (OSError, AttributeError):
        return None
