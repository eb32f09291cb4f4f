"""Which of tritonserver's models use a GPU, what they are expected to take, and how one is kept to its device."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from serving.backends.compound import backend_of
from serving.backends.triton import TritonBackend
from serving.backends.triton_devices import device_footprint, kept_to
from serving.devices import Placement
from serving.repository.layouts import ModelSpec
from serving.repository.triton_schema import as_json, parse

MIB = 1 << 20
GPU, AUTO, CPU = ("kind: KIND_GPU", "", "kind: KIND_CPU")


def spec(config: str, folder: Path = Path("/nowhere")) -> ModelSpec:
    """A model of 100 MiB with such a configuration."""
    return ModelSpec("m", "triton", folder / "config.pbtxt", 100 * MIB, triton=as_json(parse(config)), folder=folder)


@pytest.mark.parametrize(
    ("config", "instances", "devices"),
    [
        ('platform: "tensorrt_plan"', 1, ()),
        ('backend: "tensorrt" instance_group { count: 2 }', 2, ()),
        ('backend: "onnxruntime" instance_group [ { count: 2 kind: KIND_GPU }, { kind: KIND_CPU count: 9 } ]', 2, ()),
        ('backend: "dali" instance_group { count: 2 gpus: [ 0, 3 ] }', 2, (0, 3)),
        ('backend: "fil" instance_group [ { kind: KIND_GPU gpus: [ 1 ] }, { kind: KIND_GPU count: 2 } ]', 3, (1,)),
        ('backend: "fil" instance_group [ { gpus: [ 1 ] count: 2 }, { gpus: [ 0, 1 ] } ]', 3, (0, 1)),
        ('backend: "onnxruntime" instance_group { kind: KIND_CPU count: 4 }', 0, ()),
        ('backend: "pytorch" instance_group { kind: KIND_MODEL }', 0, ()),
        ('backend: "openvino"', 0, ()),
        ('backend: "python"', 0, ()),
    ],
)
def test_bytes_are_those_of_the_files_for_each_instance_on_a_gpu(
    config: str, instances: int, devices: tuple[int, ...]
) -> None:
    """With 128 MiB each beside its weights."""
    assert device_footprint(spec(config)) == (instances * 228 * MIB, devices)


def test_a_python_model_on_a_gpu_has_a_context_of_its_own() -> None:
    """Its process has: 512 MiB besides its files."""
    found = device_footprint(spec('backend: "python" instance_group { kind: KIND_GPU count: 2 }'))
    assert found == (2 * 612 * MIB, ())
    assert device_footprint(spec('backend: "python" instance_group { gpus: [ 1 ] }')) == (612 * MIB, (1,))


def test_a_model_whose_backend_is_not_written_is_known_by_its_file(tmp_path: Path) -> None:
    """model.py is the Python backend's, which asks for the CPU."""
    (tmp_path / "1").mkdir()
    assert device_footprint(spec("max_batch_size: 4", tmp_path))[0] > 0
    (tmp_path / "1" / "model.py").touch()
    assert device_footprint(spec("max_batch_size: 4", tmp_path))[0] == 0


def placed(config: str, *devices: int) -> list[tuple[str, list[int]]]:
    """Kind and devices of each group of a model that was given room there."""
    text = kept_to(config, spec(config).placed(Placement(devices)))
    return [(each["kind"], each["gpus"]) for each in as_json(parse(text)).get("instance_group", ())]


def test_a_group_that_names_no_gpu_is_kept_to_the_one_that_has_room() -> None:
    """Else tritonserver makes instances on all that it sees. What is named stays, and so does what is on the CPU."""
    assert placed('backend: "onnxruntime"', 1) == [("KIND_AUTO", [1])]
    assert placed('backend: "onnxruntime" instance_group { count: 2 kind: KIND_GPU }', 1) == [("KIND_GPU", [1])]
    assert placed('backend: "fil" instance_group [ { gpus: [ 0 ] }, { kind: KIND_CPU } ]', 0) == [
        ("KIND_AUTO", [0]),
        ("KIND_CPU", []),
    ]
    assert placed('backend: "python" instance_group [ { kind: KIND_GPU }, { count: 1 } ]', 2) == [
        ("KIND_GPU", [2]),
        ("KIND_AUTO", []),
    ]


def test_a_model_without_a_placement_is_left_as_it_is() -> None:
    """To the letter."""
    assert kept_to("# mine\nbackend: 'fil'", spec('backend: "fil"')) == "# mine\nbackend: 'fil'"


def test_the_backend_asks_for_what_its_model_is_expected_to_take(tmp_path: Path) -> None:
    """In memory and on a device."""
    backend = TritonBackend(Path("/bin/true"), tmp_path, timeout_s=1, load_timeout_s=1)
    found = backend.footprint(spec('platform: "tensorrt_plan" instance_group { gpus: [ 1 ] }'))
    assert (found.device_peak_bytes, found.device_resident_bytes, found.devices) == (228 * MIB, 228 * MIB, (1,))
    assert backend.footprint(spec('backend: "python"')).device_peak_bytes == 0


def test_models_that_are_processes_are_said_to_take_their_contexts_along(tmp_path: Path) -> None:
    """Of several that go as one all must be, or be on no device."""
    backend = TritonBackend(Path("/bin/true"), tmp_path, timeout_s=1, load_timeout_s=1)
    on_gpu = 'backend: "python" instance_group { kind: KIND_GPU }'
    python, plan, cpu = map(spec, (on_gpu, 'platform: "tensorrt_plan"', 'backend: "python"'))

    def is_apart(one: ModelSpec, *versions: ModelSpec) -> bool:
        whole = replace(one, versions=versions)
        return backend_of({"triton": backend}, whole).footprint(whole).is_apart

    assert (is_apart(python), is_apart(plan)) == (True, False)
    assert (is_apart(python, cpu), is_apart(python, plan), is_apart(plan, cpu)) == (True, False, False)


def test_what_is_laid_into_the_repository_names_the_device(tmp_path: Path) -> None:
    """As tritonserver reads it."""
    folder = tmp_path / "model"
    folder.mkdir()
    config = folder / "config.pbtxt"
    config.write_text('name: "mine" platform: "tensorrt_plan"')
    backend = TritonBackend(Path("/bin/true"), tmp_path / "server", timeout_s=1, load_timeout_s=1)
    backend.server.repository.mkdir(parents=True)
    backend._lay(spec(config.read_text(), folder).placed(Placement((1,))), "1-mine")
    laid = as_json(parse((backend.server.repository / "1-mine" / "config.pbtxt").read_text()))
    assert (laid["name"], laid["instance_group"][0]["gpus"]) == ("", [1])
