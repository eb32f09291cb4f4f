"""A backend over a real tritonserver, for the tests of its rooms."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.backends.triton import TritonBackend
from serving.errors import UnavailableError
from tests.triton.models import triton_environ


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonBackend]:
    """A backend whose server runs; it shares 4 MiB with us."""
    folder = tmp_path_factory.mktemp("triton")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in triton_environ(folder).items():
            patch.setenv(name, value)
        binary = Path(os.environ["WHARF_TRITONSERVER"])
        backend = TritonBackend(binary, folder / "cache", timeout_s=10, load_timeout_s=60, shared_bytes=4 << 20)
        assert backend.prepare()
        assert not backend.prepare()
        yield backend
        backend.close()
    assert backend.server.pid is None
    assert not backend.server.repository.exists()
    with pytest.raises(UnavailableError):
        backend.server.stub(1)
