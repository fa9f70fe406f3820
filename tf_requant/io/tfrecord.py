"""TFRecord files of tf.train.Example, read without TensorFlow: the framing and the two fields that images need."""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tf_requant.errors import CalibrationError


def record_spans(path: Path) -> Iterator[tuple[int, int]]:
    """Yield each record's (offset, length): uint64 length, masked CRC of it, the data, masked CRC of the data."""
    size = path.stat().st_size
    with path.open("rb") as file:
        while (offset := file.tell()) < size:
            header = file.read(12)
            length, checksum = struct.unpack("<QI", header) if len(header) == 12 else (0, -1)
            if checksum != _masked_crc32c(header[:8]) or offset + 16 + length > size:
                raise CalibrationError(
                    f"{path} is no uncompressed TFRecord file, or is damaged: byte {offset} starts no whole record "
                    "(data is a folder of images, .npy, .npz or TFRecord)"
                )
            yield offset + 12, length
            file.seek(offset + 16 + length)


def _masked_crc32c(data: bytes) -> int:
    """Checksum as tensorflow/core/lib/hash/crc32c.h masks it: CRC-32C, rotated right by 15, plus 0xa282ead8."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def parse_example(data: bytes, where: str) -> tuple[bytes, int | None]:
    """Read `image/encoded` and `image/class/label` off a serialized tf.train.Example."""
    values: dict[bytes, Any] = {}
    try:
        for features in (value for number, value in _fields(data) if number == 1):
            for entry in (value for number, value in _fields(features) if number == 1):
                pair = dict(_fields(entry))
                for _, several in _fields(pair.get(2, b"")):  # BytesList, FloatList or Int64List
                    values[pair[1]] = next((value for _, value in _fields(several)), None)
        label = values.get(b"image/class/label")
        label = _varint(label, 0)[0] if isinstance(label, bytes) else label  # a packed list arrives as bytes
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise CalibrationError(f"{where} is no tf.train.Example") from error
    if not isinstance(values.get(b"image/encoded"), bytes):
        raise CalibrationError(f"{where} has no image/encoded, it has {sorted(map(bytes.decode, values))}")
    return values[b"image/encoded"], label


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """Yield (field number, int or bytes) of a serialized protobuf message."""
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        value: Any
        if key & 7 == 0:
            value, position = _varint(message, position)
        else:
            length, position = _varint(message, position) if key & 7 == 2 else ({1: 8, 5: 4}[key & 7], position)
            value = message[position : position + length]
            position += length
            if position > len(message):
                raise ValueError("a field is longer than its message")
        yield key >> 3, value


def _varint(message: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[position]
        value |= (byte & 127) << shift
        position, shift = position + 1, shift + 7
        if byte < 128:
            return value - (1 << 64) if value >> 63 else value, position
