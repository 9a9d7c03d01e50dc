"""Tensors of an ONNX file: their names and shapes at hand, their numbers where they are until asked for."""

import itertools
import math
from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from bnfold.adapters.onnx_external import DataFile, Folder, Place
from bnfold.adapters.onnx_protos import TensorProto
from bnfold.adapters.onnx_skeleton import Skeleton
from bnfold.adapters.onnx_wire import Memory, Source
from bnfold.affine import Floats
from bnfold.dtypes import numpy_dtype
from bnfold.errors import BnfoldError, UnsafeError
from bnfold.record import record

_T = TensorProto
_STRING, _EXTERNAL = _T.STRING, _T.EXTERNAL  # every access to one costs
# TensorProto.DataType to (NumPy's or ml_dtypes' name, bits of an element).
DTYPES: Mapping[int, tuple[str, int]] = {
    _T.FLOAT: ("float32", 32),
    _T.UINT8: ("uint8", 8),
    _T.INT8: ("int8", 8),
    _T.UINT16: ("uint16", 16),
    _T.INT16: ("int16", 16),
    _T.INT32: ("int32", 32),
    _T.INT64: ("int64", 64),
    _T.BOOL: ("bool", 8),
    _T.FLOAT16: ("float16", 16),
    _T.DOUBLE: ("float64", 64),
    _T.UINT32: ("uint32", 32),
    _T.UINT64: ("uint64", 64),
    _T.COMPLEX64: ("complex64", 64),
    _T.COMPLEX128: ("complex128", 128),
    _T.BFLOAT16: ("bfloat16", 16),
    _T.FLOAT8E4M3FN: ("float8_e4m3fn", 8),
    _T.FLOAT8E4M3FNUZ: ("float8_e4m3fnuz", 8),
    _T.FLOAT8E5M2: ("float8_e5m2", 8),
    _T.FLOAT8E5M2FNUZ: ("float8_e5m2fnuz", 8),
    _T.UINT4: ("uint4", 4),
    _T.INT4: ("int4", 4),
    _T.FLOAT4E2M1: ("float4_e2m1fn", 4),
    24: ("float8_e8m0fnu", 8),  # by number: the oldest onnx that is allowed has no names for these
    25: ("uint2", 2),
    26: ("int2", 2),
    27: ("float6_e2m3fn", 6),
    28: ("float6_e3m2fn", 6),
}
FLOATS = ("float16", "bfloat16", "float32", "float64")  # what a fold can write
CODES = {name: code for code, (name, _) in DTYPES.items()}
# The typed fields whose packed form is the little-endian array itself: (field number, type).
_PLAIN = {(9, None), (4, _T.FLOAT), (10, _T.DOUBLE)}


@record
class Tensor:
    """A tensor of the file.

    source: where its little-endian bytes are, from `start` on; None where they are in another form (`proto`).
    proto: the TensorProto of the skeleton. external: where its bytes are beside the model.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    proto: TensorProto
    source: Source | None
    start: int = 0
    external: Place | None = None

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """The number of bytes of the data."""
        return -(-self.size * DTYPES[self.proto.data_type][1] // 8)

    def stored(self, first: int = 0, count: int | None = None) -> NDArray[np.generic]:
        """Give `count` elements from the first-th on, flat, as they are stored."""
        count = self.size - first if count is None else count
        if self.source is None:
            from onnx import numpy_helper

            flat: NDArray[np.generic] = numpy_helper.to_array(self.proto).reshape(-1)
            return flat[first : first + count]
        bits = DTYPES[self.proto.data_type][1]
        if bits < 8:
            return self._unpacked(first, count, bits)
        dtype = numpy_dtype(self.dtype)
        data = self.source.exactly(self.start + first * dtype.itemsize, count * dtype.itemsize)
        return np.frombuffer(data, dtype)

    def _unpacked(self, first: int, count: int, bits: int) -> NDArray[np.generic]:
        """Give elements that share bytes, by way of a multiple of 8 of them, which begins with a byte."""
        from onnx import numpy_helper

        assert self.source is not None
        begin = first - first % 8
        size = first + count - begin
        data = self.source.exactly(self.start + begin * bits // 8, -(-size * bits // 8))
        part = _T(data_type=self.proto.data_type, dims=[size], raw_data=data)
        flat: NDArray[np.generic] = numpy_helper.to_array(part).reshape(-1)
        return flat[first - begin :]

    def read_into(self, first: int, numbers: NDArray[np.generic]) -> None:
        """Fill an array of the tensor's dtype with its elements from the first-th on."""
        if self.source is None:
            numbers[...] = self.stored(first, numbers.size).reshape(numbers.shape)
            return
        self.source.read_into(self.start + first * numbers.itemsize, numbers.reshape(-1).view(np.uint8).data)

    def load(self) -> Floats:
        """Give the tensor in float64, in its shape."""
        return self.stored().astype(np.float64).reshape(self.shape)


def tensor(
    proto: TensorProto, start: int, file: Skeleton, folder: Folder | None, shape: tuple[int, ...] | None = None
) -> Tensor:
    """Locate the numbers of a tensor whose message begins at `start`. shape: the proto's, for whoever knows it.

    Raises BnfoldError where dtype, shape and bytes disagree; UnsafeError where its data file is out of bounds.
    """
    shape, code = tuple(proto.dims) if shape is None else shape, proto.data_type
    if code == _STRING:
        return Tensor(proto.name, shape, "str", proto, None)
    if code not in DTYPES:
        raise BnfoldError(f"{_called(proto, file)} has the unknown type {code}")
    if min(shape, default=0) < 0:
        raise BnfoldError(f"{_called(proto, file)} has a negative dimension: {shape}")
    dtype, bits = DTYPES[code]
    wanted = -(-math.prod(shape) * bits // 8)
    if proto.data_location == _EXTERNAL:
        return _external(proto, shape, dtype, wanted, folder, file)
    payload = file.payloads.get(start)
    if payload is None:
        return _inline(proto, shape, dtype, wanted, file)
    if (payload.number, None) in _PLAIN or (payload.number, code) in _PLAIN:
        _demand(payload.end - payload.body, shape, dtype, wanted, proto, file)
        return Tensor(proto.name, shape, dtype, proto, file.source, payload.body)
    return _typed(proto, payload.start, payload.end, file)


def _called(proto: TensorProto, file: Skeleton) -> str:
    return f"{file.source.name}: tensor {proto.name!r}"


def _demand(got: int, shape: tuple[int, ...], dtype: str, wanted: int, proto: TensorProto, file: Skeleton) -> None:
    if got != wanted:
        raise BnfoldError(f"{_called(proto, file)} holds {got} bytes; its shape {shape} of {dtype} wants {wanted}")


def _inline(proto: TensorProto, shape: tuple[int, ...], dtype: str, wanted: int, file: Skeleton) -> Tensor:
    """A tensor whose numbers are all in the skeleton."""
    if (data := proto.raw_data) or proto.HasField("raw_data"):
        _demand(len(data), shape, dtype, wanted, proto, file)
        return Tensor(proto.name, shape, dtype, proto, Memory(data, file.source.name))
    typed = (proto.float_data, proto.int32_data, proto.int64_data, proto.double_data, proto.uint64_data)
    elements = sum(len(items) for items in typed)
    size, bits = math.prod(shape), DTYPES[proto.data_type][1]
    entries = 2 * size if dtype.startswith("complex") else -(-size * bits // 8) if bits in (2, 4) else size
    if elements not in (entries, size):  # complex numbers take two entries, and a byte of 2- or 4-bit numbers one
        raise BnfoldError(f"{_called(proto, file)} holds {elements} numbers; its shape wants {size}")
    plain = {_T.FLOAT: proto.float_data, _T.DOUBLE: proto.double_data}.get(proto.data_type)
    if plain is not None and len(plain) == size:
        data = np.array(plain, numpy_dtype(dtype)).tobytes()
        return Tensor(proto.name, shape, dtype, proto, Memory(data, file.source.name))
    return Tensor(proto.name, shape, dtype, proto, None)


def _typed(proto: TensorProto, start: int, end: int, file: Skeleton) -> Tensor:
    """A tensor in a typed field that is no plain array (half floats as varints): decode it."""
    full = TensorProto()
    full.CopyFrom(proto)
    full.MergeFromString(file.source.exactly(start, end - start))
    return _inline(full, tuple(proto.dims), DTYPES[proto.data_type][0], 0, file)


def _external(
    proto: TensorProto, shape: tuple[int, ...], dtype: str, wanted: int, folder: Folder | None, file: Skeleton
) -> Tensor:
    if folder is None:
        raise BnfoldError(f"{_called(proto, file)} has external data; give the path of the model file instead")
    place = _place(proto, file)
    data = folder.file(place.location)
    _demand(wanted if place.length is None else place.length, shape, dtype, wanted, proto, file)
    if place.offset + wanted > data.size:
        raise UnsafeError(
            f"{_called(proto, file)} wants bytes {place.offset} to {place.offset + wanted} of {place.location!r}, "
            f"which has {data.size}"
        )
    return Tensor(proto.name, shape, dtype, proto, data, place.offset, place)


def _place(proto: TensorProto, file: Skeleton) -> Place:
    entries = {entry.key: entry.value for entry in proto.external_data}
    try:
        offset, length = int(entries.get("offset", "0")), int(entries["length"]) if "length" in entries else None
    except ValueError:
        raise BnfoldError(f"{_called(proto, file)} has an offset or length that is no number") from None
    if offset < 0 or (length is not None and length < 0):
        raise UnsafeError(f"{_called(proto, file)} has a negative offset or length")
    return Place(entries.get("location", ""), offset, length)


def bare(proto: TensorProto) -> TensorProto:
    """Copy a tensor's name and documentation, without its numbers."""
    found = TensorProto()
    found.CopyFrom(proto)
    numbers = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data", "raw_data", "external_data")
    for name in (*numbers, "data_location"):
        found.ClearField(name)
    return found


def refuse_overlaps(tensors: Iterable[Tensor], name: str) -> None:
    """Refuse external tensors that share a part of their bytes: one of the two is not what its writer wrote."""
    external = (tensor for tensor in tensors if tensor.external is not None and tensor.nbytes)
    places = ((tensor.source, tensor.start, tensor.nbytes) for tensor in external)
    spans = sorted({(file.path, start, start + size) for file, start, size in places if isinstance(file, DataFile)})
    for (file, _, end), (other, start, _) in itertools.pairwise(spans):
        if file == other and start < end:
            raise UnsafeError(f"{name}: two tensors overlap in {file.name!r} at byte {start}")
