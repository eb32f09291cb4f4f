"""torch models on a real GPU; skipped, with the reason, where there is none: so far it always was."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from serving.backends.staging import BUFFER_BYTES
from serving.backends.torch import TorchBackend
from serving.errors import InsufficientMemoryError
from tests.gpu.cards import RealCards
from tests.unit.backends.test_torch import IMAGE, ONES, X, conv_net, linear, load, scripted, spec_of

pytestmark = [
    pytest.mark.torch,
    pytest.mark.skipif(bool(RealCards.why_not()), reason=f"no GPU here: {RealCards.why_not()}"),
    pytest.mark.filterwarnings(r"ignore:`torch\.jit\.(script|trace|trace_method)` is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:`isinstance:FutureWarning"),
]

LOST = """
import sys
import numpy as np
from pathlib import Path
from serving.backends.torch import TorchBackend
from serving.errors import DeviceFailedError
from serving.repository.layouts import ModelSpec
from serving.tensors import TensorSpec
file = Path(sys.argv[1])
backend = TorchBackend("cuda", 2)
model = backend.load(ModelSpec("m", "torchscript", file, 1, (TensorSpec("ids", "INT64", (-1,)),)))
assert model.run({"ids": np.array([1])})
for ids in ([99], [1]):
    try:
        model.run({"ids": np.array(ids)})
        raise SystemExit("answered")
    except DeviceFailedError as error:
        print(error)
assert backend.fault
model.close()
"""


@pytest.fixture(scope="module")
def backend() -> Iterator[TorchBackend]:
    """A backend on the GPU."""
    yield TorchBackend("cuda", 2)


def test_a_script_answers_as_on_the_cpu(backend: TorchBackend, tmp_path: Path) -> None:
    """To 1e-2: convolutions may use TF32 there."""
    file = conv_net(tmp_path)
    image = np.random.default_rng(0).standard_normal((2, 3, 20, 20), dtype=np.float32)
    found = backend.load(spec_of(file, IMAGE)).run({"input": image})["output"]
    np.testing.assert_allclose(found, load(file, IMAGE).run({"input": image})["output"], atol=1e-2)


def test_an_exported_program_answers_as_on_the_cpu(backend: TorchBackend, tmp_path: Path) -> None:
    """Moved whole."""
    file = linear(tmp_path)
    found = backend.load(spec_of(file)).run({"input": ONES})["output"]
    np.testing.assert_allclose(found, load(file).run({"input": ONES})["output"], atol=1e-3)


def test_arrays_larger_than_all_buffers_come_back_as_they_went(backend: TorchBackend, tmp_path: Path) -> None:
    """From eight threads at once."""
    model = backend.load(spec_of(scripted(tmp_path, "def forward(self, x):\n    return x + 1"), X))
    rows = 20 * BUFFER_BYTES // 12
    arrays = [np.full((rows, 3), number, np.float32) for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        for array, answer in zip(arrays, pool.map(lambda each: model.run({"x": each})["output"], arrays), strict=True):
            assert (answer == array + 1).all()


def test_a_request_that_fills_the_device_is_507_and_the_next_is_answered(backend: TorchBackend, tmp_path: Path) -> None:
    """Inside TorchScript, where torch's error has no type of its own: 4 TiB."""
    source = "def forward(self, x):\n    return x.repeat(1 << 20, 1 << 16) if x.shape[0] == 1 else x"
    model = backend.load(spec_of(scripted(tmp_path, source), X, optimize=False))
    with pytest.raises(InsufficientMemoryError, match="CUDA out of memory"):
        model.run({"x": ONES[:1].repeat(16, axis=1)})
    np.testing.assert_array_equal(model.run({"x": ONES})["output"], ONES)


def test_what_a_model_took_is_counted_and_given_back(backend: TorchBackend, tmp_path: Path) -> None:
    """By torch's allocator, and by NVML to a segment."""
    import torch

    net = torch.nn.Linear(4096, 4096)
    torch.jit.trace(net.eval(), torch.ones(1, 4096)).save(str(tmp_path / "model.pt"))
    meter = RealCards().meter
    before = meter.used_bytes(0) or 0
    model = backend.load(spec_of(tmp_path / "model.pt"))
    assert 64 << 20 <= (model.device_bytes() or 0) <= 90 << 20
    assert (meter.used_bytes(0) or 0) >= before + (64 << 20)
    model.close()
    assert (meter.used_bytes(0) or 0) <= before + (24 << 20)


def test_a_token_beyond_the_vocabulary_loses_the_device(tmp_path: Path) -> None:
    """In a process of its own: its context is gone with it, and every request is told so."""
    import torch

    torch.jit.trace(torch.nn.Embedding(10, 3).eval(), torch.tensor([1])).save(str(tmp_path / "model.pt"))
    done = subprocess.run(
        [sys.executable, "-c", LOST, str(tmp_path / "model.pt")],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("restart the container") == 2
