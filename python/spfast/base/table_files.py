"""A table as a compressed file, of which no more is read than its header says.

A file may come from anybody. A file of another kind is refused after its first bytes. A file that
unpacks to more than its header says, or goes on behind its end, is refused once this is seen.
"""

from __future__ import annotations

import zlib
from typing import BinaryIO, Protocol

from spfast.errors import FileFormatError

__all__ = ["pack", "unpack"]

# What a compressed file begins with; the digit is the version of this wrapping.
_COMPRESSED = b"SPFZ1\n"
_PLAIN = b"SPFX"
# As cpp/table/file_header.h has it: magic, version, bytes behind the header, their checksum.
_HEADER, _LENGTH = 20, slice(8, 16)
# A table of ten million nodes stays below it; a file that says it has more is hostile.
_MAX_BYTES = 2**30
_CHUNK = 2**16


class _Source(Protocol):
    def read(self, size: int, /) -> bytes: ...


class _Plain:
    """A file of which some bytes have been read already."""

    def __init__(self, start: bytes, file: BinaryIO) -> None:
        self._start, self._file = start, file

    def read(self, size: int) -> bytes:
        first, self._start = self._start[:size], self._start[size:]
        return first + self._file.read(size - len(first))


class _Unpacked:
    """What a compressed file holds, unpacked as far as it is read."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._unpacker = file, zlib.decompressobj()

    def read(self, size: int) -> bytes:
        found = bytearray()
        while len(found) < size and not self._unpacker.eof:
            data = self._unpacker.unconsumed_tail or self._file.read(_CHUNK)
            if not data:
                raise FileFormatError("the file is cut short: save the graph again")
            try:
                found += self._unpacker.decompress(data, size - len(found))
            except zlib.error as error:
                raise FileFormatError(
                    f"the file is damaged ({error}): save the graph again"
                ) from None
        return bytes(found)

    def goes_on(self) -> bool:
        """Whether there is more behind the end of what was compressed."""
        return bool(self._unpacker.unused_data or self._file.read(1))


def pack(table: bytes) -> bytes:
    """What a file holds for the bytes of a table.

    Example:
        >>> pack(b"SPFX")[:5]
        b'SPFZ1'
    """
    return _COMPRESSED + zlib.compress(table, 9)


def unpack(file: BinaryIO) -> bytes:
    """The bytes of the table in a file that :func:`pack` filled, or that holds them as they are.

    Args:
        file: Open for reading bytes; need not be seekable.

    Raises:
        FileFormatError: It holds no table, an incomplete one, or something besides.

    Example:
        >>> import io
        >>> try:
        ...     unpack(io.BytesIO(b"GIF89a"))
        ... except FileFormatError as error:
        ...     print(error)
        not a spfast table: it does not start with SPFX or SPFZ
    """
    start = file.read(len(_COMPRESSED))
    if start.startswith(_PLAIN):
        return _table(_Plain(start, file))
    if not start.startswith(_COMPRESSED[:4]):
        raise FileFormatError("not a spfast table: it does not start with SPFX or SPFZ")
    if start != _COMPRESSED:
        raise FileFormatError(
            f"the file is of version {start[4:5].decode('latin-1')!r}, and this spfast reads "
            f"version {_COMPRESSED[4:5].decode()!r}: use a newer spfast"
        )
    unpacked = _Unpacked(file)
    table = _table(unpacked)
    if unpacked.goes_on():
        raise FileFormatError("the file goes on behind its table: save the graph again")
    return table


def _table(source: _Source) -> bytes:
    header = source.read(_HEADER)
    if not header.startswith(_PLAIN):
        raise FileFormatError("not a spfast table: it does not start with SPFX")
    length = int.from_bytes(header[_LENGTH], "little")
    if length > _MAX_BYTES:
        raise FileFormatError(f"the file says that its table has {length} bytes: it is damaged")
    body = source.read(length + 1)
    if len(body) > length:
        raise FileFormatError("the file goes on behind its table: save the graph again")
    return header + body  # the core says what is missing
