"""The gRPC server of a `Server` in this process: its port and its end."""

from __future__ import annotations

import socket
from pathlib import Path

import grpc
import pytest

from serving.errors import BadRequestError
from serving.server import Server
from serving.settings import Settings


def server(tmp_path: Path, port: int, **more: str) -> Server:
    """Build a whole server process's rooms here."""
    environ = {
        "WHARF_MODEL_ROOT": str(tmp_path),
        "WHARF_CACHE_DIR": str(tmp_path / "cache"),
        "SAGEMAKER_BASE_DIR": str(tmp_path / "opt-ml"),
        "WHARF_HOST": "127.0.0.1",
        "WHARF_GRPC_PORT": str(port),
        **more,
    }
    return Server(Settings.from_env(environ), None, environ)


def test_a_closed_server_answers_nobody(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It says where it listens, answers there, and is gone after `close`."""
    caplog.set_level("INFO")
    built = server(tmp_path, 0)
    built.start()
    address = next(each for each in caplog.messages if "event=grpc_listening" in each).partition("address=")[2]
    with grpc.insecure_channel(address) as channel:
        check = channel.unary_unary("/grpc.health.v1.Health/Check")
        assert check(b"", timeout=10) == b"\x08\x01"
        assert built.close()
        with pytest.raises(grpc.RpcError) as caught:
            check(b"", timeout=10)
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE


def test_a_port_that_is_taken_is_told_and_never_shared(tmp_path: Path) -> None:
    """Also where the other one would share it."""
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(BadRequestError, match=f"Port {port} of 127.0.0.1 cannot be bound for gRPC"):
            server(tmp_path, port)
