"""Arrays as bytes: raw little-endian, .npy and .npz, and the data types that they become.

Knows the three binary media types and `cast`, the one rule of which number may stand for which: exactly, or not at
all. Knows neither JSON nor CSV (both call `cast`) and does not choose between media types; `media` does. Arrays are
views of the body where its bytes allow that, and then they are read-only.

Nothing here unpickles: object arrays are refused when read and never written.
"""

from __future__ import annotations

import io
import math
import zipfile
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from serving.errors import BadRequestError, NotAcceptableError
from serving.tensors import DTYPES, Array, Signature, Tensors, TensorSpec

# The bound of numpy's own reader (numpy.lib.format._MAX_HEADER_SIZE): its parser of literals is not safe beyond it.
NPY_HEADER_LIMIT_BYTES = 10_000
# Measured with savez_compressed: images 3:1, token ids 5:1. Masks and one-hot rows reach 370:1 but are small, so what a
# plain body may hold is always allowed: 6 MiB, the limit of InvokeEndpoint (reference: mme-contract 1.4).
NPZ_MAX_RATIO = 16
NPZ_ALWAYS_BYTES = 6 << 20
# The largest payload that SageMaker knows, that of an asynchronous invocation (same source).
NPZ_MAX_BYTES = 128 << 20
# From 2**53 on a double cannot tell an integer from its neighbour.
_EXACT_IN_DOUBLE = 2.0**53
_WANTED = frozenset(DTYPES.values())
_STORED_OR_DEFLATED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def cast(array: Array, dtype: str | None, name: str) -> Array:
    """Return `array` in the Triton data type `dtype` (`None`: its own, in native byte order).

    Integers become floats; floats become integers when they are whole and below 2**53; booleans and strings stay what
    they are. Raises `BadRequestError` that names the input and the first value that does not fit.
    """
    have = array.dtype
    if have.kind in "SU" and dtype in (None, "BYTES"):
        return _to_bytes(array, name)
    want = have.newbyteorder("=") if dtype is None else DTYPES[dtype]
    if want in _WANTED and have == want:
        return array
    if want not in _WANTED or have.kind not in "iuf" or want.kind not in "iuf":
        raise BadRequestError(
            f"Input '{name}' has values of type {have.name} and the model wants {dtype or ', '.join(DTYPES)}: "
            "send them in that type."
        )
    try:
        return _convert(array, want, name)
    except FloatingPointError:
        too_large = np.isfinite(array) & (np.abs(array) > float(np.finfo(want).max))
        raise _unfit(array, too_large, f"fit {want.name}", name) from None


@np.errstate(over="raise", invalid="ignore")  # as a decorator it costs 0.5 us, as a context 0.9
def _convert(array: Array, want: np.dtype[Any], name: str) -> Array:
    return array.astype(want) if want.kind == "f" else _to_integers(array, want, name)


def _to_bytes(array: Array, name: str) -> Array:
    try:
        texts = np.char.encode(array, "utf-8") if array.dtype.kind == "U" else array
    except (UnicodeError, ValueError, SystemError) as fault:
        raise BadRequestError(f"Input '{name}' has text that is not Unicode ({fault}): send it as UTF-8.") from None
    return texts.astype(object)


def _to_integers(array: Array, want: np.dtype[Any], name: str) -> Array:
    if array.dtype.kind == "f":
        values = array.astype(np.float64)
        whole = (np.rint(values) == values) & (np.abs(values) < _EXACT_IN_DOUBLE)
        if not whole.all():
            raise _unfit(array, ~whole, f"are whole numbers below 2**53 ({want.name})", name)
        array = values.astype(np.int64)
    limits = np.iinfo(want)
    if array.size and not (limits.min <= int(array.min()) and int(array.max()) <= limits.max):
        # Compared as Python integers: numpy would round limits that the array's own type does not hold.
        outside = np.array([not limits.min <= value <= limits.max for value in array.ravel().tolist()])
        raise _unfit(array, outside.reshape(array.shape), f"fit {want.name}", name)
    return array.astype(want)


def _unfit(array: Array, bad: npt.NDArray[np.bool_], wanted: str, name: str) -> BadRequestError:
    index = np.unravel_index(int(np.argmax(bad)), array.shape)
    return BadRequestError(f"Input '{name}' has {array[index]} at {place(index)} and wants values that {wanted}.")


def place(index: tuple[Any, ...]) -> str:
    """Write an index as a reader of JSON would: `[0][3]`."""
    return "".join(f"[{int(i)}]" for i in index) or "the top"


def single(signature: Signature, media: str) -> TensorSpec:
    """Return the one input of the model, or the one of several that is not optional.

    Raises `BadRequestError` for a model of several inputs: `media` has no names in it.
    """
    demanded = [spec for spec in signature.inputs if not spec.is_optional] or [*signature.inputs]
    if len(demanded) != 1:
        names = [spec.name for spec in signature.inputs]
        raise BadRequestError(
            f"A body of {media} is one unnamed tensor and the model has inputs {names}: "
            "send application/json or application/x-npz, which carry names."
        )
    return demanded[0]


def read_raw(body: bytes, signature: Signature) -> Tensors:
    """Read the body as the bytes of the one input, row-major and little-endian, in the shape of the signature.

    One free dimension is found out from the byte count. A BYTES input of one element takes the whole body.
    Raises `BadRequestError` when the signature leaves the type or more than one dimension open, or the count is wrong.
    """
    spec = single(signature, "application/octet-stream")
    if spec.dtype is None or spec.dims is None or (spec.dtype != "BYTES" and spec.dims.count(-1) > 1):
        raise BadRequestError(
            f"Input '{spec.name}' ({spec.dtype or 'unknown type'}, dims {_shown(spec.dims)}) leaves its type or more "
            "than one dimension open, and raw bytes tell neither: send application/x-npy, which does."
        )
    if spec.dtype == "BYTES":
        return {spec.name: _one_element(body, spec, spec.dims)}
    dtype = DTYPES[spec.dtype]
    row_bytes = dtype.itemsize * math.prod(dim for dim in spec.dims if dim != -1)
    fits = len(body) == row_bytes if -1 not in spec.dims else body and row_bytes and len(body) % row_bytes == 0
    if not fits:
        raise BadRequestError(
            f"The body has {len(body)} bytes and input '{spec.name}' ({spec.dtype}, dims {_shown(spec.dims)}) wants "
            f"{'a multiple of ' if -1 in spec.dims else ''}{row_bytes}: send raw little-endian values."
        )
    if dtype.kind == "b" and _has_odd_booleans(body):
        raise BadRequestError(
            f"Input '{spec.name}' is BOOL and the body has bytes other than 0 and 1: send only those."
        )
    shape = tuple(len(body) // row_bytes if dim == -1 else dim for dim in spec.dims)
    return {spec.name: np.frombuffer(body, dtype.newbyteorder("<")).astype(dtype, copy=False).reshape(shape)}


def _has_odd_booleans(data: bytes) -> bool:
    return bool(np.frombuffer(data, np.uint8).max(initial=0) > 1)


def _shown(dims: tuple[int, ...] | None) -> str:
    return "unknown" if dims is None else str(list(dims))


def _one_element(body: bytes, spec: TensorSpec, dims: tuple[int, ...]) -> Array:
    shape = tuple(1 if dim == -1 else dim for dim in dims)
    if math.prod(shape) != 1:
        raise BadRequestError(
            f"A raw body is one string and input '{spec.name}' wants dims {_shown(dims)}: send application/json."
        )
    array = np.empty(1, object)
    array[0] = body
    return array.reshape(shape)


def read_npy(body: bytes, signature: Signature) -> Tensors:
    """Read a .npy file as the one input; raises `BadRequestError` that says what in its header is wrong."""
    spec = single(signature, "application/x-npy")
    return {spec.name: cast(_from_npy(body, "The body"), spec.dtype, spec.name)}


def read_npz(body: bytes, signature: Signature) -> Tensors:
    """Read a .npz archive; its keys are the inputs' names, and for a model of one input any name will do.

    Raises `BadRequestError` for an archive that is broken, has a name twice, is compressed by anything but deflate, or
    declares to unpack to more than `NPZ_MAX_RATIO` times its size (and `NPZ_ALWAYS_BYTES`) or `NPZ_MAX_BYTES`.
    """
    least = max(1, sum(not spec.is_optional for spec in signature.inputs))
    files = _unpack(body, range(least, len(signature.inputs) + 1))
    specs = {spec.name: spec for spec in signature.inputs}
    if len(specs) == 1:
        files = dict(zip(specs, files.values(), strict=True))
    if not signature.accepts(files):
        signature.check(dict.fromkeys(files, np.empty(0)))
    return {
        name: cast(_from_npy(data, f"'{name}' in the .npz"), specs[name].dtype, name) for name, data in files.items()
    }


def _unpack(body: bytes, wanted: range) -> dict[str, bytes]:
    try:
        with zipfile.ZipFile(io.BytesIO(body)) as archive:
            members = archive.infolist()
            _refuse_bombs(members, len(body), wanted)
            return {member.filename.removesuffix(".npy"): archive.read(member) for member in members}
    except BadRequestError:
        raise
    except Exception as fault:  # zipfile and zlib raise some ten kinds for a broken archive
        raise BadRequestError(
            f"The body is not an .npz archive ({_short(fault)}): write it with numpy.savez."
        ) from None


def _refuse_bombs(members: list[zipfile.ZipInfo], body_bytes: int, wanted: range) -> None:
    names = [member.filename.removesuffix(".npy") for member in members]
    if len(set(names)) != len(names) or len(names) not in wanted:
        counts = f"{wanted[-1]}" if len(wanted) == 1 else f"{wanted[0]} to {wanted[-1]}"
        raise BadRequestError(
            f"The .npz has {len(names)} arrays {_short(names)} and the model wants {counts}, each once."
        )
    if any(member.compress_type not in _STORED_OR_DEFLATED for member in members):
        raise BadRequestError("The .npz is compressed by something other than deflate: use numpy.savez_compressed.")
    declared_bytes = sum(member.file_size for member in members)
    allowed_bytes = min(max(NPZ_MAX_RATIO * body_bytes, NPZ_ALWAYS_BYTES), NPZ_MAX_BYTES)
    if declared_bytes > allowed_bytes:
        raise BadRequestError(
            f"The .npz of {body_bytes} bytes unpacks to {declared_bytes} and may unpack to {allowed_bytes}: "
            "send it with less compression (numpy.savez)."
        )


def _from_npy(data: bytes, what: str) -> Array:
    try:
        dtype, is_fortran, shape, offset = _header(data[: _header_end(data)])
        if dtype.kind == "b" and _has_odd_booleans(data[offset:]):
            raise ValueError("its booleans have bytes other than 0 and 1")
        array = np.frombuffer(data, dtype, offset=offset).reshape(shape, order="F" if is_fortran else "C")
    except Exception as fault:  # numpy's reader of headers raises whatever Python's parser does
        raise BadRequestError(f"{what} is not a .npy file that can be read: {_short(fault)}.") from None
    native = array.astype(dtype.newbyteorder("="), copy=False)
    if native.flags.c_contiguous and native.flags.aligned:
        return native
    return np.array(native, order="C")


def _header_end(data: bytes) -> int:
    if data[:6] != b"\x93NUMPY":
        raise ValueError("it does not begin with numpy's magic bytes")
    if data[6:8] == b"\x01\x00":
        end = 10 + int.from_bytes(data[8:10], "little")
    elif data[6:8] == b"\x02\x00":
        end = 12 + int.from_bytes(data[8:12], "little")
    else:
        raise ValueError(f"its version is {tuple(data[6:8])} and versions 1.0 and 2.0 are read")
    if end > min(len(data), NPY_HEADER_LIMIT_BYTES):
        raise ValueError(f"its header ends at byte {end} of {len(data)}, limit {NPY_HEADER_LIMIT_BYTES}")
    return end


@lru_cache(maxsize=256)  # clients send one shape again and again; numpy's reader takes 20 us. At most 2.5 MB.
def _header(prefix: bytes) -> tuple[np.dtype[Any], bool, tuple[int, ...], int]:
    file = io.BytesIO(prefix)
    major, _ = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
    shape, is_fortran, dtype = read(file)
    if dtype.kind not in "biufSU" or dtype.itemsize == 0 or dtype.shape:
        raise ValueError(f"its type is {_short(dtype)} and numbers, booleans and fixed-width strings are read")
    if min(shape, default=0) < 0:
        raise ValueError(f"its shape {shape} has a negative dimension")
    return dtype, is_fortran, shape, file.tell()


def _short(thing: object) -> str:
    return str(thing)[:120]


def _only(outputs: Tensors, media: str) -> Array:
    if len(outputs) != 1:
        raise NotAcceptableError(
            f"{media} holds one array and the model has outputs {list(outputs)}: accept application/x-npz."
        )
    ((name, array),) = outputs.items()
    if array.dtype.kind not in "biuf":
        raise NotAcceptableError(f"{media} cannot hold output '{name}' of {array.dtype}: accept application/json.")
    return array


def write_raw(outputs: Tensors) -> bytes:
    """Write the one output as raw little-endian bytes, row-major; raises `NotAcceptableError` for several or BYTES."""
    array = _only(outputs, "application/octet-stream")
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


def write_npy(outputs: Tensors) -> bytes:
    """Write the one output as a .npy file of version 1.0; raises `NotAcceptableError` for several or BYTES."""
    return _to_npy(_only(outputs, "application/x-npy"))


def write_npz(outputs: Tensors) -> bytes:
    """Write all outputs as an uncompressed .npz archive; raises `NotAcceptableError` for BYTES outputs."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in outputs.items():
            archive.writestr(f"{name}.npy", _to_npy(_only({name: array}, "application/x-npz")))
    return file.getvalue()


def _to_npy(array: Array) -> bytes:
    return b"".join((_npy_header(array.dtype, array.shape), np.ascontiguousarray(array).data))


@lru_cache(maxsize=256)  # models answer in one shape again and again; numpy's writer takes 2.5 us of 3
def _npy_header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    file = io.BytesIO()
    descr = np.lib.format.dtype_to_descr(dtype)
    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
    return file.getvalue()
