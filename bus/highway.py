"""HighwayHash with 64 bits, by which the broker knows whether a record of its files is whole.

As Google has published it. Slow, a fraction of a millisecond for a record: it is for repairs.
"""

from __future__ import annotations

import struct

_MASK = (1 << 64) - 1


class _State:
    def __init__(self, key: bytes) -> None:
        lanes = struct.unpack("<4Q", key)
        self.mul0 = [0xDBE6D5D5FE4CCE2F, 0xA4093822299F31D0, 0x13198A2E03707344, 0x243F6A8885A308D3]
        self.mul1 = [0x3BD39E10CB0EF593, 0xC0ACF169B5F18A8C, 0xBE5466CF34E90C6C, 0x452821E638D01377]
        self.v0 = [mul ^ lane for mul, lane in zip(self.mul0, lanes, strict=True)]
        self.v1 = [mul ^ _turned(lane) for mul, lane in zip(self.mul1, lanes, strict=True)]

    def update(self, packet: bytes) -> None:
        self.update_lanes(list(struct.unpack("<4Q", packet)))

    def update_lanes(self, lanes: list[int]) -> None:
        v0, v1 = self.v0, self.v1
        for i in range(4):
            v1[i] = (v1[i] + self.mul0[i] + lanes[i]) & _MASK
            self.mul0[i] ^= (v1[i] & 0xFFFFFFFF) * (v0[i] >> 32)
            v0[i] = (v0[i] + self.mul1[i]) & _MASK
            self.mul1[i] ^= (v0[i] & 0xFFFFFFFF) * (v1[i] >> 32)
        for source, sink in ((v1, v0), (v0, v1)):
            for i in (0, 2):
                low, high = _zipped(source[i], source[i + 1])
                sink[i], sink[i + 1] = (sink[i] + low) & _MASK, (sink[i + 1] + high) & _MASK

    def remainder(self, rest: bytes) -> None:
        size, whole = len(rest), len(rest) & ~3
        packet = bytearray(32)
        packet[:whole] = rest[:whole]
        if size & 16:
            packet[28:32] = rest[size - 4 :]
        elif size & 3:
            tail = rest[whole:]
            packet[16:19] = bytes((tail[0], tail[(size & 3) >> 1], tail[(size & 3) - 1]))
        for i in range(4):
            self.v0[i] = (self.v0[i] + (size << 32) + size) & _MASK
            low, high = self.v1[i] & 0xFFFFFFFF, self.v1[i] >> 32
            self.v1[i] = _rotated(high, size) << 32 | _rotated(low, size)
        self.update(bytes(packet))

    def finish(self) -> int:
        for _ in range(4):
            self.update_lanes([_turned(self.v0[i]) for i in (2, 3, 0, 1)])
        found: int = self.v0[0] + self.v1[0] + self.mul0[0] + self.mul1[0]
        return found & _MASK


def highway_hash(data: bytes, key: bytes) -> int:
    """Return the hash of some data under a key of 32 bytes."""
    state = _State(key)
    whole = len(data) & ~31
    for at in range(0, whole, 32):
        state.update(data[at : at + 32])
    if whole < len(data):
        state.remainder(data[whole:])
    return state.finish()


def _turned(lane: int) -> int:
    return lane >> 32 | (lane & 0xFFFFFFFF) << 32


def _rotated(half: int, by: int) -> int:
    return (half << by | half >> 32 - by) & 0xFFFFFFFF


def _zipped(v0: int, v1: int) -> tuple[int, int]:
    low = (
        ((v0 & 0xFF000000) | (v1 & 0xFF00000000)) >> 24
        | ((v0 & 0xFF0000000000) | (v1 & 0xFF000000000000)) >> 16
        | (v0 & 0xFF0000)
        | (v0 & 0xFF00) << 32
        | (v1 & 0xFF00000000000000) >> 8
        | (v0 << 56 & _MASK)
    )
    high = (
        ((v1 & 0xFF000000) | (v0 & 0xFF00000000)) >> 24
        | (v1 & 0xFF0000)
        | (v1 & 0xFF0000000000) >> 16
        | (v1 & 0xFF00) << 24
        | (v0 & 0xFF000000000000) >> 8
        | (v1 & 0xFF) << 48
        | (v0 & 0xFF00000000000000)
    )
    return low, high
