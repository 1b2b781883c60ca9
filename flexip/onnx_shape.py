"""ONNX files whose input has no fixed size, given one: OpenCV cannot run a network that asks for its input's shape.

An ONNX file is a protocol buffer; the few fields on the way to the input's dimensions are read and written here, so
that this needs no ONNX library. Field numbers: onnx.proto3 of the ONNX project.
"""

from collections.abc import Iterator, Sequence

INPUT_SHAPE = (7, 11, 2, 1, 2)  # ModelProto.graph, .input, ValueInfoProto.type, .tensor_type, .shape
DIMENSION, VALUE = 1, 1  # TensorShapeProto.dim, Dimension.dim_value
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


def with_input_size(model: bytes, size: Sequence[int]) -> bytes:
    """The model with inputs of exactly this shape, e.g. (1, 3, 320, 320). Raises ValueError: no protocol buffer."""
    shape = b"".join(_field(DIMENSION, BYTES, _varint(VALUE << 3 | VARINT) + _varint(side)) for side in size)
    return _replaced(model, INPUT_SHAPE, shape)


def _replaced(message: bytes, path: Sequence[int], content: bytes) -> bytes:
    """The message with the content of the fields at the end of the path replaced."""
    if not path:
        return content
    parts = []
    for number, kind, whole, value in _fields(message):
        on_way = number == path[0] and kind == BYTES
        parts.append(_field(number, BYTES, _replaced(value, path[1:], content)) if on_way else whole)
    return b"".join(parts)


def _fields(message: bytes) -> Iterator[tuple[int, int, bytes, bytes]]:
    """Number, wire type, the whole field, and the content of one that has a length."""
    start = 0
    while start < len(message):
        key, at = _read_varint(message, start)
        length = 0
        if key & 7 == VARINT:
            _, end = _read_varint(message, at)
        elif key & 7 == BYTES:
            length, at = _read_varint(message, at)
            end = at + length
        elif key & 7 in (FIXED64, FIXED32):
            end = at + (8 if key & 7 == FIXED64 else 4)
        else:
            raise ValueError(f"not a protocol buffer: wire type {key & 7} at byte {start}")
        if end > len(message):
            raise ValueError(f"not a whole protocol buffer: a field at byte {start} ends at {end} of {len(message)}")
        yield key >> 3, key & 7, message[start:end], message[at:end]
        start = end


def _field(number: int, kind: int, content: bytes) -> bytes:
    return _varint(number << 3 | kind) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _read_varint(message: bytes, start: int) -> tuple[int, int]:
    value = shift = 0
    for at in range(start, min(start + 10, len(message))):
        value |= (message[at] & 0x7F) << shift
        if message[at] < 0x80:
            return value, at + 1
        shift += 7
    raise ValueError(f"not a protocol buffer: an endless number at byte {start}")
