"""Models of both formats on a device (a stand-in for CUDA): the same answers, and who goes there."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.backends.batched import BatchingBackend
from serving.backends.torch import DeviceModel, TorchBackend, TorchModel
from serving.backends.torch_device import DeviceSettings, TorchDevices
from serving.backends.torch_errors import is_out_of_memory
from serving.cores import CoreBudget
from serving.devices import Placement
from serving.errors import BadRequestError, InsufficientMemoryError, InvalidArtifactError, LoadFailedError
from serving.repository.scheduling import Scheduling
from serving.workers.handler import Request
from tests.unit.backends.standin_device import FULL, ILLEGAL_ACCESS, StandInDriver
from tests.unit.backends.test_torch import IMAGE, ONES, X, conv_net, linear, load, scripted, spec_of

pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings(r"ignore:`torch\.jit\.(script|trace|trace_method)` is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:`isinstance:FutureWarning"),
]


class Gpus:
    """Two devices and a backend over them."""

    def __init__(self) -> None:
        self.drivers = {0: StandInDriver(), 1: StandInDriver()}
        self.devices = TorchDevices(self.drivers.__getitem__, DeviceSettings(timeout_s=10))
        self.backend = TorchBackend("cuda", 2, self.devices)


@pytest.fixture
def gpus() -> Iterator[Gpus]:
    """A machine with two."""
    yield Gpus()


@pytest.mark.parametrize("optimize", [True, False])
def test_a_script_answers_as_on_the_cpu(gpus: Gpus, tmp_path: Path, *, optimize: bool) -> None:
    """Optimised and plain, to 1e-4."""
    file = conv_net(tmp_path)
    image = np.random.default_rng(0).standard_normal((2, 3, 20, 20), dtype=np.float32)
    found = gpus.backend.load(spec_of(file, IMAGE, optimize=optimize)).run({"input": image})
    np.testing.assert_allclose(found["output"], load(file, IMAGE).run({"input": image})["output"], atol=1e-4)
    assert gpus.drivers[0].copies > 0


def test_an_exported_program_answers_as_on_the_cpu(gpus: Gpus, tmp_path: Path) -> None:
    """Its signature is the same, too."""
    file = linear(tmp_path)
    model, there = gpus.backend.load(spec_of(file)), load(file)
    assert model.signature == there.signature
    np.testing.assert_array_equal(model.run({"input": ONES})["output"], there.run({"input": ONES})["output"])


def test_the_models_own_device_goes_before_the_servers_and_the_houses_place_before_both(
    gpus: Gpus, tmp_path: Path
) -> None:
    """cpu, cuda:1, a placement."""
    spec = spec_of(scripted(tmp_path, "def forward(self, x):\n    return x"), X)
    assert isinstance(gpus.backend.load(replace(spec, device="cpu")), TorchModel)
    assert list(gpus.devices.opened) == []
    gpus.backend.load(replace(spec, device="cuda:1"))
    assert list(gpus.devices.opened) == [1]
    gpus.backend.load(replace(spec, device="cuda", placement=Placement((0,))))
    assert sorted(gpus.devices.opened) == [0, 1]


def test_a_model_on_a_device_holds_no_core(gpus: Gpus, tmp_path: Path) -> None:
    """It is called like one outside, with the request's own deadline, and behind a batcher it takes no token."""
    spec = spec_of(scripted(tmp_path, "def forward(self, x):\n    return x * 2"), X)
    model = gpus.backend.load(spec)
    assert isinstance(model, DeviceModel)
    assert (model.is_outside, model.takes_bodies, model.threads) == (True, False, 0)
    cores = CoreBudget(1)
    scheduled = replace(spec, scheduling=Scheduling(4, is_dynamic=True))
    batched: Any = BatchingBackend(gpus.backend, cores).load(scheduled)
    with cores.lease(1, 1):
        for each in (model, batched):
            answer = each.invoke(Request(tensors={"x": ONES}), 1e9).tensors
            assert answer is not None
            np.testing.assert_array_equal(answer["output"], 2 * ONES)


def test_requests_are_joined_for_a_device_and_one_that_fails_fails_alone(gpus: Gpus, tmp_path: Path) -> None:
    """By the batcher, as on the CPU."""
    source = "def forward(self, x):\n    assert bool((x >= 0).all()), 'negative'\n    return x * x.shape[0]"
    spec = spec_of(scripted(tmp_path, source), X, optimize=False)
    scheduling = Scheduling(8, is_dynamic=True, preferred=(3,), max_queue_delay_us=5_000_000)
    model: Any = BatchingBackend(gpus.backend, CoreBudget(1)).load(replace(spec, scheduling=scheduling))
    rows = [np.full((1, 3), value, np.float32) for value in (1, 2, -1)]

    def ask(row: np.ndarray) -> float | str:
        try:
            return float(model.invoke(Request(tensors={"x": row}), 1e9).tensors["output"][0, 0])
        except Exception as error:
            return type(error).__name__

    with ThreadPoolExecutor(3) as pool:
        assert sorted(map(str, pool.map(ask, rows))) == ["1.0", "2.0", "ModelFailedError"]


def test_a_request_that_fills_the_device_is_507(gpus: Gpus, tmp_path: Path) -> None:
    """And text is a bad request, as on the CPU."""
    gpus.drivers[0].capacity_bytes = 100
    model = gpus.backend.load(spec_of(scripted(tmp_path, "def forward(self, x):\n    return x"), X))
    with pytest.raises(InsufficientMemoryError, match="Model 'm' found no memory for this request: CUDA out of memory"):
        model.run({"x": np.ones((100, 3), np.float32)})
    with pytest.raises(BadRequestError, match="is of type object"):
        model.run({"x": np.array(["a"], object)})
    assert model.run({"x": ONES})


def test_what_a_model_is_on_a_device_is_predicted_from_its_file(gpus: Gpus, tmp_path: Path) -> None:
    """Weights and a segment; twice the weights while convolutions are folded; little in this process."""
    mib = 1 << 20
    plain = replace(spec_of(scripted(tmp_path, "def forward(self, x):\n    return x")), bytes=100 * mib)
    found = gpus.backend.footprint(plain)
    assert (found.device_resident_bytes, found.device_peak_bytes) == (125 * mib, 125 * mib)
    assert (found.resident_bytes, found.devices) == (mib, ())
    folded = replace(spec_of(conv_net(tmp_path)), bytes=100 * mib, device="cuda:1")
    found = gpus.backend.footprint(folded)
    assert (found.device_resident_bytes, found.device_peak_bytes) == (125 * mib, 230 * mib)
    assert found.devices == (1,)
    exported = gpus.backend.footprint(replace(folded, format="torch_export", device="cuda"))
    assert exported.device_peak_bytes == 125 * mib
    assert gpus.backend.footprint(replace(plain, device="cpu")).device_peak_bytes == 0


def test_a_server_on_a_gpu_opens_it_before_its_first_model_is_measured(gpus: Gpus) -> None:
    """The context is the server's; where there is no GPU the first load says so."""
    assert gpus.backend.prepare()  # torch was there, and its context is new
    assert list(gpus.devices.opened) == [0]
    assert not gpus.backend.prepare()

    def none(_: int) -> StandInDriver:
        raise LoadFailedError("torch finds no such device")

    TorchBackend("cuda", 2, TorchDevices(none, DeviceSettings())).prepare()


def test_a_gpu_that_cannot_be_opened_is_not_the_files_fault(tmp_path: Path) -> None:
    """A driver that is too old, a card without room for a context: 500, 507, and the model's name."""
    spec = spec_of(scripted(tmp_path, "def forward(self, x):\n    return x"), X)
    for kind in (LoadFailedError, InsufficientMemoryError):

        def fails(_: int, kind: type[Exception] = kind) -> StandInDriver:
            raise kind("cuda:0 could not be opened")

        with pytest.raises(kind, match="Model 'm' is to run on cuda: cuda:0 could not be opened"):
            TorchBackend("cuda", 2, TorchDevices(fails, DeviceSettings())).load(spec)


def test_a_gpu_that_refuses_a_load_is_not_the_files_fault_either(gpus: Gpus, tmp_path: Path) -> None:
    """torch was built for other cards: a 500 that says so, where a broken file is a 400."""
    import torch

    class Refusing(StandInDriver):
        def computing(self) -> Any:
            raise torch.AcceleratorError("CUDA error: no kernel image is available for execution on the device")

    gpus.drivers[0] = Refusing()
    with pytest.raises(LoadFailedError, match="could not be loaded: CUDA error: no kernel image"):
        gpus.backend.load(spec_of(scripted(tmp_path, "def forward(self, x):\n    return x"), X))
    (tmp_path / "model.pt").write_bytes(b"no archive")
    with pytest.raises(InvalidArtifactError, match="is not a torchscript file"):
        TorchBackend("cuda", 2, TorchDevices(lambda _: StandInDriver(), DeviceSettings())).load(
            spec_of(tmp_path / "model.pt", X)
        )


@pytest.mark.parametrize(
    ("said", "is_full"),
    [
        (FULL, True),
        (f"The following operation failed in the TorchScript interpreter.\nTraceback\nRuntimeError: {FULL}\n", True),
        ("CUDA error: out of memory\nCUDA kernel errors might be reported late", True),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", True),
        ("cuDNN error: CUDNN_STATUS_ALLOC_FAILED", True),
        (ILLEGAL_ACCESS, False),
        ("a model's own words: CUDA out of memory", False),
        ("shapes\nCUDA error: out of memory?", False),
        ("", False),
    ],
)
def test_a_full_device_is_known_by_whole_lines(said: str, *, is_full: bool) -> None:
    """Where torch gives no type: in the interpreter, and what libraries say beside the allocator."""
    assert is_out_of_memory(RuntimeError(said)) == is_full


def test_a_full_device_is_known_by_type_and_code_first() -> None:
    """OutOfMemoryError, and cudaErrorMemoryAllocation; what is of another type never by its words."""
    import torch

    assert is_out_of_memory(torch.OutOfMemoryError("whatever"))
    code: Any = torch.AcceleratorError("CUDA error: out of memory")
    assert not is_out_of_memory(code)
    code.error_code = 2
    assert is_out_of_memory(code)
    assert not is_out_of_memory(ValueError(FULL))
