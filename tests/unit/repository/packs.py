"""Archives and model files for the tests of this floor, honest and hostile, made by hand in memory."""

from __future__ import annotations

import gzip
import io
import stat
import tarfile
import zipfile
from pathlib import Path

FILES = {"model.onnx": b"weights" * 1000, "code/labels.txt": b"cat\ndog\n"}


def tar_of(*members: tarfile.TarInfo | tuple[tarfile.TarInfo, bytes], fmt: int = tarfile.PAX_FORMAT) -> bytes:
    """A tar of members as they are given, however wrong."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=fmt) as archive:
        for member in members:
            info, data = member if isinstance(member, tuple) else (member, b"")
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def file_member(name: str, data: bytes = b"x", mode: int = 0o644) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), mode
    return info, data


def member(name: str, kind: bytes, target: str = "", size: int = 0) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, target, size
    return info


def tar(files: dict[str, bytes] = FILES) -> bytes:
    return tar_of(*(file_member(name, data) for name, data in files.items()))


def tar_gz(files: dict[str, bytes] = FILES) -> bytes:
    return gzip.compress(tar(files), mtime=0)


def zip_of(files: dict[str, bytes] = FILES, modes: dict[str, int] | None = None, *, deflate: bool = True) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED if deflate else zipfile.ZIP_STORED) as archive:
        for name, data in files.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = archive.compression
            info.create_system = 3
            info.external_attr = (modes or {}).get(name, stat.S_IFREG | 0o644) << 16
            archive.writestr(info, data)
    return out.getvalue()


def pax_record(key: str, value: str) -> bytes:
    body = f" {key}={value}\n".encode()
    size = len(body) + len(str(len(body) + len(str(len(body)))))
    return str(size).encode() + body


def tree(folder: Path) -> dict[str, bytes]:
    """What lies below a folder, by relative path."""
    return {str(each.relative_to(folder)): each.read_bytes() for each in sorted(folder.rglob("*")) if each.is_file()}


def torch_zip(*names: str) -> bytes:
    return zip_of({f"net/{name}": b"x" for name in names}, deflate=False)


TORCHSCRIPT = torch_zip("data.pkl", "code/__torch__/net.py", "constants.pkl", "version", "data/0")
EXPORTED = torch_zip("models/model.json", "archive_format", "archive_version", "data/weights/weight_0")
STATE_DICT = torch_zip("data.pkl", "version", "byteorder", "data/0")
AOT = torch_zip("data/aotinductor/model/net.so", "archive_format", "archive_version")


def field(number: int, *parts: bytes) -> bytes:
    """One length-delimited protobuf field."""
    data = b"".join(parts)
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*out, value))


def onnx(*locations: str, raw: bytes = b"w" * 300) -> bytes:
    """An ONNX model as far as this floor reads it: initializers, some of them kept in other files."""
    entries = [field(13, field(1, b"location"), field(2, each.encode())) for each in locations]
    tensors = [field(5, field(8, b"w"), field(9, raw)), *(field(5, field(8, b"e"), entry) for entry in entries)]
    return b"\x08\x08" + field(2, b"tests") + field(7, *tensors)
