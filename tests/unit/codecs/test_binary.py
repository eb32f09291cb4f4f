"""Arrays as bytes: raw, .npy and .npz."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.codecs import binary
from serving.codecs.media import decode
from serving.errors import BadRequestError, NotAcceptableError
from serving.tensors import DTYPES, Array, Signature
from tests.unit.codecs.signatures import IMAGE, PAIR, ROWS, TEXT, UNTOLD, signature

RAW = "application/octet-stream"
NPY = "application/x-npy"
NPZ = "application/x-npz"
X = np.arange(8, dtype=np.float32).reshape(2, 4)


def npy(array: Array, **options: Any) -> bytes:
    """Return what numpy.save writes."""
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


def npz(**arrays: Array) -> bytes:
    """Return what numpy.savez_compressed writes."""
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)  # type: ignore[arg-type]  # numpy's stub takes any name for allow_pickle
    return file.getvalue()


def header(text: str, data: bytes = b"") -> bytes:
    """Return a .npy file with a header of ours."""
    line = text.encode("latin-1") + b"\n"
    return b"\x93NUMPY\x01\x00" + len(line).to_bytes(2, "little") + line + data


def refusal(body: bytes, content_type: str, wanted: Signature = ROWS) -> str:
    """Return what the sender of a bad body is told."""
    with pytest.raises(BadRequestError) as fault:
        decode(body, content_type, wanted)
    return fault.value.message


# -- raw


@pytest.mark.parametrize("dtype", sorted(DTYPES.keys() - {"BYTES"}))
def test_raw_bytes_are_read_in_every_type(dtype: str) -> None:
    """Little-endian, row-major, the batch found out from the byte count."""
    array = np.array([[0, 1], [1, 0], [1, 1]], DTYPES[dtype])
    read = decode(array.tobytes(), RAW, signature(("x", dtype, (-1, 2)))).tensors["x"]

    assert read.dtype == array.dtype
    assert np.array_equal(read, array)


def test_raw_and_npy_are_views_of_the_body() -> None:
    """No copy is made of what is there already; what is shared cannot be written to."""
    for body, content_type in ((X.tobytes(), RAW), (npy(X), NPY)):
        read = decode(body, content_type, ROWS).tensors["x"]
        assert np.shares_memory(read, np.frombuffer(body, np.uint8))
        assert not read.flags.writeable


@pytest.mark.parametrize(
    ("dims", "count", "shape"),
    [((2, -1), 6, (2, 3)), ((3,), 3, (3,)), ((), 1, ()), ((2, 2), 4, (2, 2)), ((-1, 1, 2), 4, (2, 1, 2))],
)
def test_the_shape_of_raw_bytes_is_the_signature_s(dims: tuple[int, ...], count: int, shape: tuple[int, ...]) -> None:
    """One free dimension, wherever it is, or none."""
    body = np.zeros(count, np.float32).tobytes()

    assert decode(body, RAW, signature(("x", "FP32", dims))).tensors["x"].shape == shape


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (ROWS, "The body has 7 bytes and input 'x' (FP32, dims [-1, 4]) wants a multiple of 16"),
        (signature(("x", "FP32", (2,))), "wants 8: send raw little-endian values"),
        (signature(("x", "FP32", (-1, 0))), "wants a multiple of 0"),
        (signature(("x", "FP32", (-1, -1))), "leaves its type or more than one dimension open"),
        (UNTOLD, "'x' (unknown type, dims unknown) leaves its type"),
        (signature(("x", "FP32", None)), "send application/x-npy"),
        (PAIR, "one unnamed tensor and the model has inputs ['a', 'b']"),
        (signature(("x", "BOOL", (7,))), "is BOOL and the body has bytes other than 0 and 1"),
        (signature(("x", "BYTES", (2,))), "A raw body is one string and input 'x' wants dims [2]"),
    ],
)
def test_raw_bytes_that_do_not_fit_are_told_the_count(wanted: Signature, said: str) -> None:
    """Found, wanted and what to send instead."""
    assert said in refusal(b"\x02" * 7, RAW, wanted)


def test_an_empty_raw_body_is_no_batch_of_none() -> None:
    """Zero bytes fit a free dimension only by arithmetic."""
    assert "The body has 0 bytes" in refusal(b"", RAW)


def test_a_raw_body_is_one_string() -> None:
    """A picture for a model that decodes it itself, brace first or not."""
    for body in (b"\x89PNG\xff", b"{", b""):
        assert decode(body, RAW, TEXT).tensors["text"].tolist() == [body]


# -- npy


@pytest.mark.parametrize("kind", ["<f4", ">f4", "<f8", ">i2", "<u4", "f2", "|i1"])
def test_npy_becomes_the_type_of_the_model(kind: str) -> None:
    """Big-endian, wide and narrow, floats and integers: native, contiguous FP32."""
    read = decode(npy(X.astype(kind)), NPY, ROWS).tensors["x"]

    assert read.dtype == np.float32
    assert read.dtype.isnative
    assert read.flags.c_contiguous
    assert np.array_equal(read, X)


@pytest.mark.parametrize("kind", ["<f4", ">f8"])
def test_fortran_order_and_foreign_bytes_come_out_contiguous(kind: str) -> None:
    """Whatever the layout was, runtimes get C order and aligned, native values."""
    fortran = np.asfortranarray(X.astype(kind))

    for wanted in (ROWS, UNTOLD):
        read = decode(npy(fortran), NPY, wanted).tensors["x"]
        assert read.flags.c_contiguous
        assert read.flags.aligned
        assert read.dtype.isnative
        assert np.array_equal(read, X)


def test_a_npy_tells_its_type_to_a_model_that_tells_none() -> None:
    """Float64 stays float64, unlike in JSON, which has no types."""
    assert decode(npy(X.astype(">f8")), NPY, UNTOLD).tensors["x"].dtype == np.float64
    assert decode(npy(np.array(["é", "b"])), NPY, UNTOLD).tensors["x"].tolist() == ["é".encode(), b"b"]
    assert decode(npy(np.array([b"a", b"b"])), NPY, TEXT).tensors["text"].tolist() == [b"a", b"b"]


@pytest.mark.parametrize("code_point", [0xD800, 0x110000])
def test_text_that_is_no_unicode_is_refused(code_point: int) -> None:
    """numpy's strings are bytes that promise to be code points."""
    body = header("{'descr': '<U1', 'fortran_order': False, 'shape': (1,)}", code_point.to_bytes(4, "little"))

    assert "'text' has text that is not Unicode" in refusal(body, NPY, TEXT)


def test_one_sample_without_a_batch_gets_it() -> None:
    """As from every other type: the check of the signature."""
    assert decode(npy(X[0]), NPY, ROWS).tensors["x"].shape == (1, 4)


def test_a_header_that_is_not_aligned_is_copied() -> None:
    """Runtimes may read whole vectors at once."""
    body = header("{'descr': '<f4', 'fortran_order': False, 'shape': (1, 4)} ", X[:1].tobytes())

    assert len(body) % 4
    assert decode(body, NPY, ROWS).tensors["x"].flags.aligned


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "does not begin with numpy's magic bytes"),
        (b"\x93NUMPY", "its version is ()"),
        (b"\x93NUMPY\x03\x00\x00\x00\x00\x00", "its version is (3, 0) and versions 1.0 and 2.0 are read"),
        (b"\x93NUMPY\x01\x00\xff\x00", "its header ends at byte 265 of 10"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + b" " * 20_000, "limit 10000"),
        (npy(X)[:-1], "buffer size must be a multiple of element size"),
        (npy(X)[:-4], "cannot reshape array of size 7"),
        (npy(X) + b"\0\0\0\0", "cannot reshape array of size 9"),
        (header("{"), "is not a .npy file that can be read"),
        (header("{'descr': '<f4'}"), "Header does not contain the correct keys"),
        (header("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}", b"\0" * 8), "its type is object"),
        (header("{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 4)}", bytes(16)), "has a negative dimension"),
        (header("{'descr': '|S0', 'fortran_order': False, 'shape': (9,)}"), "its type is |S0"),
        (header("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,)}"), "its type is [('a'"),
        (header("{'descr': '|b1', 'fortran_order': False, 'shape': (4,)}", b"\0\1\2\3"), "bytes other than 0 and 1"),
        (header("(" * 5000), "is not a .npy file that can be read"),
        (npy(X.astype("c8")), "its type is complex64"),
    ],
)
def test_a_damaged_npy_is_told_what_in_its_header_is_wrong(body: bytes, said: str) -> None:
    """Magic, version, length, keys, type, shape or size."""
    assert said in refusal(body, NPY)


def test_objects_are_never_unpickled(tmp_path: Path) -> None:
    """A pickle that would write a file does not."""
    witness = tmp_path / "witness"

    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (witness,))

    body = npy(np.array([Trap()], object), allow_pickle=True)

    assert "its type is object" in refusal(body, NPY, UNTOLD)
    assert "its type is object" in refusal(npz(x=np.array([Trap()], object)), NPZ, UNTOLD)
    assert not witness.exists()


@pytest.mark.parametrize(
    ("array", "wanted", "said"),
    [
        (X + 0.5, signature(("x", "INT32", (-1, 4))), "'x' has 0.5 at [0][0] and wants values that are whole"),
        (X * np.nan, signature(("x", "INT32", (-1, 4))), "'x' has nan at [0][0]"),
        (X.astype("i8") + 250, signature(("x", "UINT8", (-1, 4))), "'x' has 256 at [1][2] and wants values that fit"),
        (X.astype("f8") * 1e39, ROWS, "'x' has 1e+39 at [0][1] and wants values that fit float32"),
        (X > 1, ROWS, "'x' has values of type bool and the model wants FP32"),
        (X, signature(("x", "BOOL", (-1, 4))), "'x' has values of type float32 and the model wants BOOL"),
        (X, signature(("x", "BYTES", (-1, 4))), "wants BYTES"),
        (X.astype(str), ROWS, "and the model wants FP32"),
        (X.astype("g"), UNTOLD, "has values of type"),
    ],
)
def test_values_of_another_type_fit_exactly_or_not_at_all(array: Array, wanted: Signature, said: str) -> None:
    """The rules are those of JSON: nothing is rounded to an integer, wrapped or taken for a boolean."""
    assert said in refusal(npy(array), NPY, wanted)


def test_nan_and_infinity_are_values_of_an_array() -> None:
    """Binary floats hold them, so they pass from one width to another."""
    values = np.array([[np.nan, np.inf, -np.inf, 0]])

    assert np.array_equal(decode(npy(values), NPY, ROWS).tensors["x"], values.astype("f4"), equal_nan=True)


# -- npz


def test_the_keys_of_a_npz_are_the_inputs() -> None:
    """For one input any key will do."""
    pair = decode(npz(b=np.array([5, 6]), a=X[:, :2]), NPZ, PAIR).tensors

    assert list(pair) == ["a", "b"]
    assert np.array_equal(pair["a"], X[:, :2])
    assert np.array_equal(decode(npz(whatever=X), NPZ, ROWS).tensors["x"], X)


@pytest.mark.parametrize(
    ("body", "wanted", "said"),
    [
        (b"", ROWS, "not an .npz archive"),
        (npy(X), ROWS, "not an .npz archive"),
        (npz(x=X)[:-30], ROWS, "not an .npz archive"),
        (npz(x=X, y=X), ROWS, "has 2 arrays ['x', 'y'] and the model wants 1"),
        (npz(a=X, c=X), PAIR, "has inputs ['a', 'c'] and the model wants ['a', 'b']"),
    ],
)
def test_a_wrong_npz_is_told_what_is_wrong(body: bytes, wanted: Signature, said: str) -> None:
    """Broken archives and wrong keys."""
    assert said in refusal(body, NPZ, wanted)


def archive(*names: str, data: bytes = npy(X), compression: int = zipfile.ZIP_STORED) -> bytes:
    """Return a zip of these members."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as writer:
        for name in names:
            writer.writestr(zipfile.ZipInfo(name), data, compression)
    return file.getvalue()


def test_a_npz_with_other_contents_is_refused() -> None:
    """A key twice, another compression, a member that is no array."""
    assert "each once" in refusal(archive("a.npy", "a"), NPZ, PAIR)
    assert "something other than deflate" in refusal(archive("x.npy", compression=zipfile.ZIP_LZMA), NPZ)
    assert "'x' in the .npz is not a .npy file" in refusal(archive("x.npy", data=b"text"), NPZ)


def test_a_bomb_is_refused_before_it_is_unpacked() -> None:
    """By what it declares: 64 times its size, beyond what a plain body may have anyway."""
    zeros = np.zeros((binary.NPZ_ALWAYS_BYTES // 16 + 1, 4), np.float32)

    assert "and may unpack to 6291456" in refusal(npz(x=zeros), NPZ)


def test_small_arrays_may_be_as_dull_as_they_like() -> None:
    """A picture of zeros compresses 700:1 and is what people try first."""
    picture = np.zeros((100, 3, 32, 32), np.float32)

    assert decode(npz(x=picture), NPZ, IMAGE).tensors["x"].shape == picture.shape


def test_a_member_that_lies_about_its_size_is_cut_off() -> None:
    """The declared size bounds what is read, and the checksum finds the lie."""
    body = bytearray(npz(x=np.zeros((1000, 4), np.float32)))
    entry = body.rindex(b"PK\x01\x02")
    body[entry + 24 : entry + 28] = (200).to_bytes(4, "little")

    assert "not an .npz archive" in refusal(bytes(body), NPZ)


# -- answers


@pytest.mark.parametrize("array", [X, X.T, X.astype(">f8"), X[:0], np.float16(3), X > 3, np.arange(3)])
def test_what_is_written_reads_back(array: Array) -> None:
    """By numpy itself, in every layout that a model may answer with."""
    array = np.asarray(array)
    for body in (binary.write_npy({"y": array}), dict(np.load(io.BytesIO(binary.write_npz({"y": array}))))["y"]):
        read = np.load(io.BytesIO(body)) if isinstance(body, bytes) else body
        assert read.shape == array.shape
        assert np.array_equal(read, array)
    assert binary.write_raw({"y": array}) == array.astype(array.dtype.newbyteorder("<")).tobytes()


def test_a_npz_holds_all_outputs_whatever_they_are_called() -> None:
    """Even names that numpy.savez takes for its own arguments."""
    outputs = {"file": X, "scope/dense:0": X[0]}
    read = np.load(io.BytesIO(binary.write_npz(outputs)))

    assert sorted(read) == sorted(outputs)
    assert np.array_equal(read["file"], X)


@pytest.mark.parametrize(
    ("write", "outputs", "said"),
    [
        (binary.write_npy, {"y": X, "z": X}, r"\['y', 'z'\]: accept application/x-npz"),
        (binary.write_raw, {"y": X, "z": X}, r"accept application/x-npz"),
        (binary.write_npy, {}, r"has outputs \[\]"),
        (
            binary.write_npy,
            {"y": np.array([b"a"], object)},
            r"cannot hold output 'y' of object: accept application/json",
        ),
        (binary.write_npz, {"y": np.array(["a"])}, r"cannot hold output 'y' of <U1"),
    ],
)
def test_outputs_that_a_type_cannot_hold_are_refused_with_a_way_out(write: Any, outputs: Any, said: str) -> None:
    """Several arrays in one, and strings, which would need a pickle."""
    with pytest.raises(NotAcceptableError, match=said):
        write(outputs)
