"""The zip archive that label maps ride in behind a TFLite flatbuffer.

TFLite metadata packs associated files as a zip appended to the flatbuffer. A zip's directory holds
absolute offsets from the start of the whole file, so an archive that moves needs them rewritten
(PKWARE APPNOTE 4.3.12 and 4.3.16).
"""

import io
import struct
import zipfile
from dataclasses import dataclass

from flatbuffers import encode, packer
from flatbuffers.table import Table

_MODEL_GRAPHS, _MODEL_FILES, _GRAPH_TENSORS, _GRAPH_FILES, _TENSOR_FILES = 3, 6, (2, 3), 4, 6  # vtable slots
_UNREACHED = 64  # bytes: converters leave small objects behind that nothing refers to
_FILE_MAGIC = b"PK\x03\x04"
_END = struct.Struct("<4s4H2LH")
_END_MAGIC, _ENTRY_MAGIC = b"PK\x05\x06", b"PK\x01\x02"
_ENTRY_SIZE, _ENTRY_OFFSET_AT = 46, 42


@dataclass(frozen=True, eq=False)
class Archive:
    """An appended archive: its bytes, and the file position that its offsets count from zero at."""

    content: bytes
    start: int


def find_archive(data: bytes, behind: int) -> tuple[Archive | None, str]:
    """The archive behind byte `behind` of a file, and a warning where what is there cannot be one.

    Args:
        data: the whole file.
        behind: the first byte that the flatbuffer does not use.
    """
    tail = data[behind:]
    if not _looks_like_an_archive(tail):
        unknown = len(tail) if len(tail) > _UNREACHED else 0
        return None, f"{unknown} bytes of unknown meaning behind the flatbuffer were left out" if unknown else ""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = archive.infolist()
            start = min((e.header_offset for e in entries), default=behind)
            broken = archive.testzip()
    except (zipfile.BadZipFile, OSError, ValueError, EOFError, NotImplementedError, struct.error):
        return None, _lost(len(tail))
    if start < behind or broken is not None:
        return None, _lost(len(tail))
    return Archive(data[start:], start), ""


def _looks_like_an_archive(tail: bytes) -> bool:
    start = tail.lstrip(b"\0")
    return bool(start) and (b"PK" in start or _FILE_MAGIC.startswith(start[:4]))


def promised_files(metadata: bytes) -> list[str]:
    """The associated files that a TFLITE_METADATA buffer names (metadata_schema.fbs, ModelMetadata).

    A file that was cut off right behind its flatbuffer has lost them without leaving a trace of an archive.
    """
    try:
        root = Table(bytearray(metadata), encode.Get(packer.uoffset, metadata, 0))
        owners = [(root, _MODEL_FILES)]
        for graph in _children(root, _MODEL_GRAPHS):
            owners.append((graph, _GRAPH_FILES))
            owners.extend((t, _TENSOR_FILES) for slot in _GRAPH_TENSORS for t in _children(graph, slot))
        files = [f for table, slot in owners for f in _children(table, slot)]
        return [f.String(f.Pos + f.Offset(4)).decode() for f in files if f.Offset(4)]
    except (struct.error, IndexError, TypeError, ValueError):
        return []  # not this schema: nothing is promised


def _children(table: Table, slot: int) -> list[Table]:
    offset = table.Offset(4 + 2 * slot)
    if not offset:
        return []
    start, count = table.Vector(offset), min(table.VectorLen(offset), len(table.Bytes) // 4)
    return [Table(table.Bytes, table.Indirect(start + 4 * i)) for i in range(count)]


def _lost(size: int) -> str:
    return (
        f"the {size} bytes behind the flatbuffer are not a complete zip archive; the associated files (label maps) "
        "in them are lost, the network itself is whole"
    )


def relocate(archive: Archive, start: int) -> bytes:
    """The archive's bytes for a file in which it begins at byte `start`."""
    content = bytearray(archive.content)
    end = content.rfind(_END_MAGIC)
    magic, disk, first, here, count, size, offset, comment = _END.unpack_from(content, end)
    directory = end - size
    if offset + size != archive.start + end:
        return bytes(content)  # offsets count from the archive's own first byte: they move with it
    shift, at = start - archive.start, directory
    for _ in range(count):
        if content[at : at + 4] != _ENTRY_MAGIC:
            break
        name, extra, note = struct.unpack_from("<3H", content, at + 28)
        header = struct.unpack_from("<L", content, at + _ENTRY_OFFSET_AT)[0]
        struct.pack_into("<L", content, at + _ENTRY_OFFSET_AT, header + shift)
        at += _ENTRY_SIZE + name + extra + note
    _END.pack_into(content, end, magic, disk, first, here, count, size, offset + shift, comment)
    return bytes(content)
