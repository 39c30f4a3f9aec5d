"""The checksum of TensorBoard's event files.

CRC-32C (Castagnoli, polynomial 0x1EDC6F41; RFC 3720, appendix B.4), reflected, and the mask under which TFRecord
stores it: rotated right by 15 bits, plus 0xA282EAD8.
"""

from typing import Final


def _table() -> tuple[int, ...]:
    entries = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
        entries.append(value)
    return tuple(entries)


_TABLE: Final = _table()


def checksum(data: bytes) -> int:
    """Return the CRC-32C of some bytes.

    Examples
    --------
    >>> hex(checksum(b"123456789"))
    '0xe3069283'
    """
    value, table = 0xFFFFFFFF, _TABLE
    for byte in data:
        value = table[(value ^ byte) & 0xFF] ^ (value >> 8)
    return value ^ 0xFFFFFFFF


def masked(data: bytes) -> int:
    """Return the CRC-32C of some bytes as a TFRecord stores it."""
    value = checksum(data)
    return (((value >> 15) | (value << 17)) + 0xA282EAD8) & 0xFFFFFFFF
