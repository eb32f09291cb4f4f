"""Models of Triton's Python backend run unmodified: each of their hooks, kinds of answers and mistakes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.workers.dialects import triton_python
from serving.workers.handler import HandlerError
from tests.workers.triton_models import FAILED, OK, Load, ask, error_of, executing, launch_of, load, tensor

__all__ = ["load"]

COUNT = "Number of InferenceResponse objects do not match the number of InferenceRequest objects."
RESPONSE = "an 'InferenceResponse' object in the execute function return list"

ADD_SUB = """
class TritonPythonModel:
    def initialize(self, args):
        self.model_config = model_config = json.loads(args["model_config"])
        config = pb_utils.get_output_config_by_name(model_config, "SUM")
        self.dtype = pb_utils.triton_string_to_numpy(config["data_type"])

    def execute(self, requests):
        responses = []
        for request in requests:
            a = pb_utils.get_input_tensor_by_name(request, "A").as_numpy()
            b = pb_utils.get_input_tensor_by_name(request, "B").as_numpy()
            responses.append(pb_utils.InferenceResponse(output_tensors=[
                pb_utils.Tensor("SUM", (a + b).astype(self.dtype)), pb_utils.Tensor("DIFF", (a - b).astype(self.dtype)),
            ]))
        return responses

    def finalize(self):
        print("Cleaning up...")
"""
ADD_SUB_CONFIG = {"input": [tensor("A"), tensor("B")], "output": [tensor("SUM"), tensor("DIFF")]}


def test_a_model_as_triton_documents_it_answers_a_batch(load: Load, capfd: pytest.CaptureFixture[str]) -> None:
    """Responses come in the order of the requests, with the outputs by name; finalize is called at the end."""
    handler = load(ADD_SUB, ADD_SUB_CONFIG)
    first, second = handler.call([ask(A=[3.0], B=[1.0]), ask(A=[0.0], B=[2.0])])
    assert first.tensors == {"SUM": 4, "DIFF": 2}
    assert first.tensors["SUM"].dtype == np.float32
    assert second.tensors is not None
    assert second.tensors["DIFF"].tolist() == [-2]
    handler.close()
    assert "Cleaning up" in capfd.readouterr().out


def test_specs_are_those_of_the_configuration(load: Load) -> None:
    """With a batch dimension where max_batch_size says so, and strings under their name here."""
    config = {"max_batch_size": 4, "input": [tensor("x", "TYPE_STRING", 2)], "output": [tensor("y")]}
    handler = load(executing("return []"), config)
    assert handler.takes_tensors
    assert handler.inputs == [{"name": "x", "dtype": "BYTES", "dims": [-1, 2]}]
    assert handler.outputs == [{"name": "y", "dtype": "FP32", "dims": [-1, -1]}]


def test_a_model_without_a_configuration_tells_no_specs(load: Load) -> None:
    """Whatever tensors come are handed on."""
    handler = load(executing(f"return [{OK}]"))
    assert (handler.inputs, handler.outputs) == (None, None)
    assert handler.call([ask(anything=[1.0])])[0].tensors == {"y": 0.0}


def test_initialize_gets_strings(load: Load) -> None:
    """All seven, and all strings."""
    code = """
class TritonPythonModel:
    def initialize(self, args):
        assert all(type(value) is str for value in args.values()), args
        self.args = args

    def execute(self, requests):
        return [pb_utils.InferenceResponse([pb_utils.Tensor("y", np.array([json.dumps(self.args)], object))])]
"""
    (reply,) = load(code, version="7", device="cuda:1").call([ask()])
    assert reply.tensors is not None
    args = json.loads(reply.tensors["y"][0])
    config = json.loads(args.pop("model_config"))
    assert (config["name"], config["max_batch_size"], config["input"]) == ("m", 0, [])
    assert Path(args.pop("model_repository")).name == "m"
    assert args == {
        "model_instance_kind": "GPU",
        "model_instance_device_id": "1",
        "model_instance_name": "m_0",
        "model_version": "7",
        "model_name": "m",
    }


@pytest.mark.parametrize(
    ("device", "group", "kind"),
    [("cpu", "KIND_CPU", "CPU"), ("cpu", "KIND_MODEL", "MODEL"), ("cuda", "KIND_AUTO", "GPU")],
)
def test_the_kind_of_an_instance_is_a_word(load: Load, device: str, group: str, kind: str) -> None:
    """The device that is there decides, but for KIND_MODEL, where the model does."""
    code = (
        "class TritonPythonModel:\n    def initialize(self, args):\n        kinds.append(args['model_instance_kind'])"
    )
    code += f"\n    def execute(self, requests):\n        return [{OK}]\n"
    load("kinds = []\n" + code, {"instance_group": [{"kind": group}]}, device=device)
    assert sys.modules["1.model"].kinds == [kind]


def test_auto_complete_config_comes_first_and_completes_all(tmp_path: Path, load: Load) -> None:
    """Its result is what initialize reads, what the specs are of, and the launch's configuration."""
    code = """
class TritonPythonModel:
    @staticmethod
    def auto_complete_config(auto_complete_model_config):
        config = auto_complete_model_config
        assert config.as_dict()["name"] == "m"
        config.add_input({"name": "x", "data_type": "TYPE_INT64", "dims": [3]})
        config.add_output({"name": "y", "data_type": "TYPE_FP32", "dims": [1]})
        config.set_max_batch_size(8)
        config.set_dynamic_batching()
        return config

    def initialize(self, args):
        assert json.loads(args["model_config"])["max_batch_size"] == 8

    def execute(self, requests):
        return []
"""
    load(code).close()
    launch = launch_of(tmp_path / "m", code)
    handler = triton_python.load(launch)
    assert handler.inputs == [{"name": "x", "dtype": "INT64", "dims": [-1, 3]}]
    assert launch.config["dynamic_batching"] == {}
    assert launch.config["output"] == [{"name": "y", "data_type": "TYPE_FP32", "dims": [1]}]


COMPLETE = """
class TritonPythonModel:
    @staticmethod
    def auto_complete_config(config):
        {}
    def execute(self, requests):
        return []
"""


@pytest.mark.parametrize(
    ("code", "fault"),
    [
        ("class Other: pass", "wants a class TritonPythonModel"),
        ("class TritonPythonModel: pass", "a method execute"),
        (COMPLETE.format("return None"), "returned NoneType.*return auto_complete_model_config"),
        (COMPLETE.format("config.add_input(dict(name='x', data_type='TYPE_BF16', dims=[1])); return config"), "BF16"),
        (COMPLETE.format("config.add_input(dict(name='x', data_type='FP32', dims=[1])); return config"), "'FP32'"),
    ],
)
def test_a_file_that_is_no_model_is_refused(load: Load, code: str, fault: str) -> None:
    """With what was found and what to write."""
    with pytest.raises(HandlerError, match=fault):
        load(code)


@pytest.mark.parametrize("code", ["raise KeyError('x')", COMPLETE.format("raise KeyError('x')")])
def test_what_stops_a_model_from_loading_comes_through(load: Load, code: str) -> None:
    """For `main`, which tells its last line."""
    with pytest.raises(KeyError):
        load(code)


def test_neighbours_are_imported_either_way(tmp_path: Path, load: Load) -> None:
    """By name from the version's and the model's folder, and relatively as of a package."""
    version = tmp_path / "m" / "1"
    version.mkdir(parents=True)
    (version / "near_tool.py").write_text("A = 1")
    (version / "other_tool.py").write_text("from . import near_tool\nB = near_tool.A")
    (tmp_path / "m" / "far_tool.py").write_text("C = 3")
    code = "import near_tool, far_tool\nfrom .other_tool import B\nassert (near_tool.A, B, far_tool.C) == (1, 1, 3)\n"
    load(code + executing("return []"))


def test_a_version_that_is_a_package_is_one(tmp_path: Path, load: Load) -> None:
    """Its __init__.py runs, once and first."""
    (tmp_path / "m" / "1").mkdir(parents=True)
    (tmp_path / "m" / "1" / "__init__.py").write_text("SAID = 'hello'")
    load("from . import SAID\nassert SAID == 'hello'\n" + executing("return []"))


def test_a_model_finds_its_folder(tmp_path: Path, load: Load) -> None:
    """get_model_dir() is the version's folder, also while the file is imported."""
    load(f"assert pb_utils.get_model_dir() == {str(tmp_path / 'm' / '1')!r}\n" + executing("return []"))


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ("return []", f"{COUNT} InferenceRequest(s) size is:1, and InferenceResponse(s) size is:0\n"),
        (f"return [{OK}] * 2", f"{COUNT} InferenceRequest(s) size is:1, and InferenceResponse(s) size is:2\n"),
        ("return 'y'", "Expected a list in the execute return, found type '<class 'str'>'."),
        ("return ['y']", f"Expected {RESPONSE}, found type '<class 'str'>'."),
        ("return None", f"Expected {RESPONSE}, found type '<class 'NoneType'>'."),
        ("return [None]", f"Expected {RESPONSE}, found type '<class 'NoneType'>'."),
    ],
)
def test_an_answer_that_is_none_fails_the_request_in_tritons_words(load: Load, body: str, fault: str) -> None:
    """What was returned and what is wanted."""
    (reply,) = load(executing(body)).call([ask()])
    assert (reply.status, error_of(reply)) == (424, FAILED + fault)


def test_an_exception_of_execute_fails_the_whole_batch_in_tritons_words(
    tmp_path: Path, load: Load, capfd: pytest.CaptureFixture[str]
) -> None:
    """Type, text and the model's own frames, the innermost first; the traceback is in the log."""
    odd = "class Odd(Exception): pass\ndef deep():\n    raise Odd('two' + chr(10) + 'lines')\n"
    first, second = load(odd + executing("deep()")).call([ask(), ask()])
    file = tmp_path / "m" / "1" / "model.py"
    lines = file.read_text().splitlines()
    inner, outer = (next(n for n, line in enumerate(lines, 1) if begin in line) for begin in ("raise", "  deep()"))
    assert (first.status, error_of(first)) == (second.status, error_of(second))
    assert error_of(first) == (f"{FAILED}Odd: two\nlines\n\nAt:\n  {file}({inner}): deep\n  {file}({outer}): execute\n")
    assert "Traceback" in capfd.readouterr().err


def test_only_the_models_own_frames_are_told(tmp_path: Path, load: Load) -> None:
    """Neither those of what stands in for Triton's modules, which are no Python there, nor an event loop's."""
    refused = "return [pb_utils.InferenceResponse(3)]"
    for body in (executing(refused), executing(refused).replace("def execute", "async def execute")):
        (reply,) = load(body).call([ask()])
        _, _, at = error_of(reply).partition("\n\nAt:\n")
        (line,) = at.splitlines()
        assert line.startswith(f"  {tmp_path}/m/1/model.py(")
        assert line.endswith("): execute")


@pytest.mark.parametrize("raised", ["MemoryError()", "type('OutOfMemoryError', (RuntimeError,), {})()"])
def test_a_lack_of_memory_comes_through(load: Load, raised: str) -> None:
    """For `main`, which knows what it means."""
    with pytest.raises(Exception, match="^$"):
        load(executing(f"raise {raised}")).call([ask()])


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        ("ValueError()", "ValueError: <EMPTY MESSAGE>"),
        ("KeyError('k')", "KeyError: 'k'"),
        ("type('Bad', (Exception,), {'__str__': None})()", "Bad: <EMPTY MESSAGE>"),
        ("ValueError('x' * 5000)", "ValueError: " + "x" * 1000),
        ("pb_utils.TritonModelException('no')", "TritonModelException: no"),
    ],
)
def test_what_an_exception_says_is_told_as_triton_does(load: Load, raised: str, said: str) -> None:
    """Also one that says nothing, and as much as anybody reads."""
    (reply,) = load(executing(f"raise {raised}")).call([ask()])
    assert error_of(reply).startswith(f"{FAILED}{said}\n\nAt:\n")


@pytest.mark.parametrize(
    ("groups", "instance", "name"),
    [
        (None, 1, "m_1"),
        ([{"kind": "KIND_CPU"}], 0, "m_0_0"),
        ([{"count": 2}, {"count": 1, "name": "mine"}], 1, "m_0_1"),
        ([{"count": 2}, {"count": 1, "name": "mine"}], 2, "mine_0"),
        ([{"count": 1}], 3, "m_3"),
    ],
)
def test_an_instance_is_called_as_triton_calls_it(
    load: Load, groups: list[dict[str, Any]] | None, instance: int, name: str
) -> None:
    """By its group, and its number in that."""
    config: dict[str, Any] = {"instance_group": groups} if groups else {}
    handler = load(executing("raise ValueError"), config, instance=instance)
    assert error_of(handler.call([ask()])[0]).startswith(FAILED.replace("m_0", name))


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("UNKNOWN", 400),
        ("INTERNAL", 424),
        ("NOT_FOUND", 404),
        ("INVALID_ARG", 400),
        ("UNAVAILABLE", 503),
        ("UNSUPPORTED", 501),
        ("ALREADY_EXISTS", 400),
        ("CANCELLED", 400),
    ],
)
def test_the_code_of_an_error_is_a_status(load: Load, code: str, status: int) -> None:
    """Triton's own, but for INTERNAL, which is the model's failure."""
    error = f"pb_utils.TritonError('no such row', pb_utils.TritonError.{code})"
    (reply,) = load(executing(f"return [pb_utils.InferenceResponse(error={error})]")).call([ask()])
    assert (reply.status, reply.headers) == (status, {"Content-Type": "application/json"})
    said = {"error": "no such row"}
    if code in ("UNKNOWN", "ALREADY_EXISTS", "CANCELLED"):
        said["code"] = code
    assert json.loads(bytes(reply.body)) == said


def test_a_failing_response_fails_nobody_else(load: Load) -> None:
    """One of two has an error; the other is answered."""
    bad = "pb_utils.InferenceResponse(output_tensors=[], error=pb_utils.TritonError('too long'))"
    handler = load(executing(f"return [{bad}, {OK}]"), {"output": [tensor("y")]})
    failed, fine = handler.call([ask(), ask()])
    assert (failed.status, error_of(failed)) == (424, "too long")
    assert (fine.status, fine.tensors) == (200, {"y": 0.0})


def test_an_output_may_be_missing_and_an_unknown_one_is_dropped(load: Load) -> None:
    """As with Triton."""
    answer = "pb_utils.InferenceResponse([pb_utils.Tensor(name, np.zeros(1, np.float32)) for name in ('q', 'y')])"
    handler = load(executing(f"return [{answer}]"), {"output": [tensor("y"), tensor("z")]})
    assert handler.call([ask()])[0].tensors == {"y": 0.0}


def test_inputs_may_be_written_to_although_they_are_views(load: Load) -> None:
    """People scale in place; a read-only view of shared memory is copied for that."""
    code = """
x = pb_utils.get_input_tensor_by_name(requests[0], "x").as_numpy()
x /= 2
return [pb_utils.InferenceResponse([pb_utils.Tensor("y", x)])]
"""
    sent = np.ones(2, np.float32)
    sent.flags.writeable = False
    (reply,) = load(executing(code)).call([ask(x=sent)])
    assert reply.tensors is not None
    assert reply.tensors["y"].tolist() == [0.5, 0.5]
    assert sent.tolist() == [1, 1]


def test_strings_come_as_bytes_and_leave_as_bytes(load: Load) -> None:
    """Objects of bytes in; str, bytes and numpy's bytes out."""
    code = """
x = requests[0].inputs()[0].as_numpy()
words = [each.decode() + "!" for each in x.ravel()]
y = pb_utils.Tensor("y", np.array(words, dtype=object).reshape(x.shape))
z = pb_utils.Tensor("z", np.array(words, np.bytes_))
return [pb_utils.InferenceResponse([y, z])]
"""
    (reply,) = load(executing(code)).call([ask(x=np.array([[b"a", b"bc"]], object))])
    assert reply.tensors is not None
    assert reply.tensors["y"].tolist() == [[b"a!", b"bc!"]]
    assert reply.tensors["z"].tolist() == [b"a!", b"bc!"]
    assert reply.tensors["z"].dtype == object


def test_a_request_tells_what_came_with_it(load: Load) -> None:
    """Inputs, the wanted outputs and the model; ids, flags and parameters are the defaults."""
    code = """
request, = requests
assert [each.name() for each in request.inputs()] == ["x"]
assert request.requested_output_names() == ["y"]
assert (request.request_id(), request.correlation_id(), request.flags(), request.timeout()) == ("", 0, 0, 0)
assert json.loads(request.parameters()) == dict()
assert (request.model_name(), request.model_version(), request.is_cancelled()) == ("m", 1, False)
assert request.trace().get_context() is None
return [%s]
"""
    assert load(executing(code % OK), {"output": [tensor("y")]}).call([ask(x=[1])])[0].status == 200


ASYNC = """
import asyncio
class TritonPythonModel:
    def initialize(self, args):
        self.loops = []
    async def execute(self, requests):
        self.loops.append(asyncio.get_running_loop())
        assert len(set(self.loops)) == 1
        await asyncio.gather(*(asyncio.sleep(0) for _ in requests))
        return [%s for _ in requests]
"""


def test_execute_may_be_a_coroutine(load: Load) -> None:
    """All calls run in one loop, so that what is bound to a loop may be kept."""
    handler = load(ASYNC % OK)
    for _ in range(2):
        assert [reply.status for reply in handler.call([ask(), ask()])] == [200, 200]


def test_a_coroutines_exception_is_told_as_that_of_a_function(load: Load) -> None:
    """Its own frame alone, none of the loop's."""
    (reply,) = load(ASYNC % "{}['x']").call([ask()])
    assert error_of(reply).startswith(f"{FAILED}KeyError: 'x'\n\nAt:\n  ")
    assert error_of(reply).count("\n  ") == 2  # and the list's own


def test_a_farewell_that_fails_is_logged(load: Load, capfd: pytest.CaptureFixture[str]) -> None:
    """The model goes all the same."""
    load(executing("return []") + "    def finalize(self):\n        raise OSError('no')").close()
    assert "OSError: no" in capfd.readouterr().err


def test_a_model_cannot_call_another_and_says_so(load: Load) -> None:
    """exec() raises what models catch; uncaught, its sentence is the client's."""
    code = """
inner = pb_utils.InferenceRequest(model_name="other", requested_output_names=["y"], inputs=[])
return [inner.exec()]
"""
    (reply,) = load(executing(code)).call([ask()])
    assert "Calling the model 'other' from a model is not possible" in error_of(reply)


def test_without_numpy_the_error_says_what_to_add(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model's own environment may lack it."""
    monkeypatch.setitem(sys.modules, "numpy", None)
    with pytest.raises(HandlerError, match="need numpy"):
        load("")


def test_it_runs_in_a_process_of_its_own(tmp_path: Path) -> None:
    """With `-W error`, a model of the documentation, and nothing else of the server imported."""
    launch = launch_of(tmp_path / "m", ADD_SUB, ADD_SUB_CONFIG)
    code = f"""
import sys
import numpy as np
from serving.workers.handler import Launch, Request
from serving.workers.dialects.triton_python import load
handler = load(Launch(**{vars(launch)!r}))
reply, = handler.call([Request(tensors={{"A": np.ones(2, np.float32), "B": np.ones(2, np.float32)}})])
assert reply.tensors["SUM"].tolist() == [2, 2]
handler.close()
ours = {{name for name in sys.modules if name.startswith("serving")}}
assert ours == {{"serving", "serving.workers", "serving.workers.handler", "serving.workers.dialects",
                "serving.workers.dialects.triton_python", "serving.workers.dialects.triton_faults",
                 "serving.workers.dialects.triton_answers", "serving.workers.frames",
                "serving.workers.answer_frames", "serving.workers.tensor_frames"}}, ours
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=60)
