"""Models of Triton's Python backend run unmodified: each of their hooks, kinds of answers and mistakes."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.workers.dialects import triton_python
from serving.workers.handler import HandlerError, Reply, Request
from tests.workers.triton_models import Load, launch_of, load, tensor

__all__ = ["load"]

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

OK = "pb_utils.InferenceResponse([pb_utils.Tensor('y', np.zeros(1, np.float32))])"


def executing(body: str, kind: str = "def") -> str:
    """A model whose execute has this body."""
    return f"class TritonPythonModel:\n    {kind} execute(self, requests):\n" + textwrap.indent(body, " " * 8) + "\n"


def ask(**tensors: Any) -> Request:
    return Request(tensors={name: np.asarray(value) for name, value in tensors.items()})


def error_of(reply: Reply) -> str:
    document = json.loads(bytes(reply.body))
    assert document.keys() == {"error"}
    return str(document["error"])


def lines(reply: Reply) -> list[dict[str, Any]]:
    assert reply.chunks is not None
    return [json.loads(chunk) for chunk in reply.chunks]


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
        ("return []", r"returned 0 responses for 1 request\(s\)"),
        (f"return [{OK}] * 2", "returned 2 responses for 1"),
        ("return 'y'", "returned str"),
        (f"return {OK}", "returned InferenceResponse for 1"),
        ("return ['y']", "returned str for a request and wants an InferenceResponse"),
        ("return None", "returned NoneType for a request.*get_response_sender"),
        ("return [None]", "returned NoneType for a request"),
    ],
)
def test_an_answer_that_is_none_fails_the_batch(load: Load, body: str, fault: str) -> None:
    """With what was returned and what is wanted."""
    with pytest.raises(HandlerError, match=fault) as caught:
        load(executing(body)).call([ask()])
    assert caught.value.status == 424


def test_an_exception_of_execute_comes_through(load: Load) -> None:
    """For `main`, which answers with its last line."""
    with pytest.raises(KeyError):
        load(executing("{}['x']")).call([ask()])


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
    assert error_of(reply) == "no such row"


def test_a_failing_response_fails_nobody_else(load: Load) -> None:
    """One of three has an error, one unknown outputs; the third is answered."""
    bad = "pb_utils.InferenceResponse(output_tensors=[], error=pb_utils.TritonError('too long'))"
    odd = "pb_utils.InferenceResponse([pb_utils.Tensor('z', np.zeros(1, np.float32))])"
    handler = load(executing(f"return [{bad}, {odd}, {OK}]"), {"output": [tensor("y")]})
    failed, unknown, fine = handler.call([ask(), ask(), ask()])
    assert (failed.status, error_of(failed)) == (424, "too long")
    assert unknown.status == 424
    assert "answered with the outputs ['z'] and has ['y']" in error_of(unknown)
    assert fine.status == 200
    assert fine.tensors == {"y": 0.0}


def test_a_missing_output_is_told(load: Load) -> None:
    """By name, as an unknown one."""
    handler = load(executing(f"return [{OK}]"), {"output": [tensor("y"), tensor("z")]})
    assert b"answered with the outputs ['y'] and has ['y', 'z']" in bytes(handler.call([ask()])[0].body)


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


def test_a_coroutines_exception_comes_through(load: Load) -> None:
    """As that of a function."""
    with pytest.raises(KeyError):
        load(ASYNC % "{}['x']").call([ask()])


DECOUPLED: dict[str, Any] = {"model_transaction_policy": {"decoupled": True}}
FINAL = "flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL"
# Triton's own example's shape: a thread for each request sends as many responses as the input says.
REPEAT = f"""
class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            count = int(request.inputs()[0].as_numpy()[0])
            threading.Thread(target=self.answer, args=(request.get_response_sender(), count), daemon=True).start()
        return None

    def answer(self, sender, count):
        for index in range(count):
            sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("y", np.array([index], np.int32))]))
        sender.send({FINAL})
"""


def test_one_response_of_a_decoupled_model_is_a_normal_answer(load: Load) -> None:
    """A client that asks for one sees no difference."""
    (reply,) = load(REPEAT, DECOUPLED).call([ask(x=[1])])
    assert (reply.tensors, reply.chunks) == ({"y": 0}, None)


def test_several_responses_are_lines_of_json(load: Load) -> None:
    """Each is a response of the Open Inference protocol."""
    (reply,) = load(REPEAT, DECOUPLED).call([ask(x=[3])])
    assert reply.headers == {"Content-Type": "application/x-ndjson"}
    assert lines(reply) == [
        {
            "model_name": "m",
            "model_version": "1",
            "outputs": [{"name": "y", "datatype": "INT32", "shape": [1], "data": [index]}],
        }
        for index in range(3)
    ]


def test_no_response_is_an_empty_answer(load: Load) -> None:
    """Decoupled models may answer nothing."""
    (reply,) = load(REPEAT, DECOUPLED).call([ask(x=[0])])
    assert (reply.status, reply.body, reply.chunks) == (200, b"", None)


def test_of_a_batch_every_request_has_its_own_answers(load: Load) -> None:
    """Only one of a batch could be streamed: lines are sent whole."""
    one, three = load(REPEAT, DECOUPLED).call([ask(x=[1]), ask(x=[3])])
    assert one.tensors == {"y": 0}
    assert three.chunks is None
    assert len(bytes(three.body).splitlines()) == 3


def test_lines_come_as_they_are_sent(load: Load) -> None:
    """The third response is sent only once the second was read: execute itself may send."""
    code = f"""
go = threading.Event()
class TritonPythonModel:
    def execute(self, requests):
        sender = requests[0].get_response_sender()
        sender.send({OK})
        sender.send({OK})
        assert go.wait(15)
        sender.send({OK}, {FINAL})
"""
    (reply,) = load(code, DECOUPLED).call([ask()])
    assert reply.chunks is not None
    next(reply.chunks)
    next(reply.chunks)
    sys.modules["1.model"].go.set()
    assert len(list(reply.chunks)) == 1


def test_a_model_sees_that_its_client_left(load: Load) -> None:
    """Closing the chunks is what `main` does; is_cancelled() turns true on the sender and on the request."""
    code = f"""
left, go = threading.Event(), threading.Event()
class TritonPythonModel:
    def execute(self, requests):
        request, = requests
        sender = request.get_response_sender()
        sender.send({OK})
        sender.send({OK})
        assert not sender.is_cancelled() and go.wait(15)
        if sender.is_cancelled() and request.is_cancelled():
            left.set()
        sender.send({FINAL})
"""
    (reply,) = load(code, DECOUPLED).call([ask()])
    assert reply.chunks is not None
    reply.chunks.close()  # type: ignore[attr-defined]
    assert list(reply.chunks) == []
    model = sys.modules["1.model"]
    model.go.set()
    assert model.left.wait(15)


def test_an_error_between_responses_is_a_line(load: Load) -> None:
    """The stream goes on after it, as Triton's."""
    error = "pb_utils.InferenceResponse(error=pb_utils.TritonError('lost one'))"
    sends = "; ".join(f"sender.send({each})" for each in (OK, error, OK, FINAL))
    code = executing(f"sender = requests[0].get_response_sender(); {sends}")
    found = lines(load(code, DECOUPLED).call([ask()])[0])
    assert [*map(list, found)] == [["model_name", "model_version", "outputs"], ["error"]] + [list(found[0])]
    assert found[1] == {"error": "lost one"}


def test_the_only_response_may_be_an_error(load: Load) -> None:
    """Then it has its status."""
    error = "pb_utils.InferenceResponse(error=pb_utils.TritonError('gone', pb_utils.TritonError.NOT_FOUND))"
    code = executing(f"requests[0].get_response_sender().send({error}, {FINAL})")
    assert load(code, DECOUPLED).call([ask()])[0].status == 404


def test_an_exception_of_a_decoupled_model_is_the_answer(load: Load, capfd: pytest.CaptureFixture[str]) -> None:
    """Its last line for the client, its traceback for the log."""
    (reply,) = load(executing("1 / 0"), DECOUPLED).call([ask()])
    assert (reply.status, error_of(reply)) == (424, "ZeroDivisionError: division by zero")
    assert "Traceback" in capfd.readouterr().err


def test_an_exception_after_responses_is_the_last_line(load: Load) -> None:
    """What was sent before it stays."""
    code = (
        f"sender = requests[0].get_response_sender(); sender.send({OK}); sender.send({OK}); raise MemoryError('full')"
    )
    *_, last = lines(load(executing(code), DECOUPLED).call([ask()])[0])
    assert last == {"error": "MemoryError: full"}


@pytest.mark.parametrize(
    ("body", "status", "fault"),
    [
        ("raise MemoryError()", 507, "MemoryError"),
        ("return []", 424, "returned list and wants None"),
        ("pass", 424, "let go of a request without an answer"),
        ("requests[0].get_response_sender()", 424, "TRITONSERVER_RESPONSE_COMPLETE_FINAL"),
    ],
)
def test_a_decoupled_model_that_answers_nothing_keeps_nobody_waiting(
    load: Load, body: str, status: int, fault: str
) -> None:
    """Neither one that forgets its request."""
    (reply,) = load(executing(body), DECOUPLED).call([ask()])
    assert reply.status == status
    assert fault in error_of(reply)


def test_sys_exit_of_a_decoupled_model_ends_the_worker(load: Load) -> None:
    """It is raised where `main` sees it, although another thread said it."""
    with pytest.raises(SystemExit):
        load(executing("raise SystemExit(3)"), DECOUPLED).call([ask()])


@pytest.mark.parametrize("count", [1, 2])
def test_a_sender_that_is_forgotten_after_an_answer_ends_it(load: Load, count: int) -> None:
    """The flag was wanted, the answer is there all the same."""
    sends = "; ".join([f"sender.send({OK})"] * count)
    (reply,) = load(executing(f"sender = requests[0].get_response_sender(); {sends}"), DECOUPLED).call([ask()])
    assert reply.tensors == {"y": 0.0} if count == 1 else len(lines(reply)) == 2


def test_a_coroutine_may_send(load: Load) -> None:
    """`async def execute` of decoupled models, as those that stream from an engine."""
    body = f"""
import asyncio
sender = requests[0].get_response_sender()
sender.send({OK})
await asyncio.sleep(0)
sender.send({OK}, {FINAL})
"""
    (reply,) = load(executing(body, "async def"), DECOUPLED).call([ask()])
    assert len(lines(reply)) == 2


def test_calls_of_a_decoupled_model_do_not_overlap(load: Load) -> None:
    """The next execute waits for the last one's return, which may come after its answer."""
    code = f"""
import itertools
class TritonPythonModel:
    busy, calls = threading.Lock(), itertools.count()
    def execute(self, requests):
        assert self.busy.acquire(blocking=False)
        requests[0].get_response_sender().send({OK}, {FINAL})
        sum(range(100_000))
        self.busy.release()
"""
    handler = load(code, DECOUPLED)
    for _ in range(5):
        assert handler.call([ask()])[0].status == 200


def test_a_normal_model_may_answer_by_its_sender(load: Load) -> None:
    """None stands for a request whose sender was taken; the others are returned."""
    code = f"requests[0].get_response_sender().send({OK}, {FINAL}); return [None, {OK}]"
    assert [reply.tensors for reply in load(executing(code)).call([ask(), ask()])] == [{"y": 0.0}] * 2


def test_values_that_json_has_not_are_null_or_base64(load: Load) -> None:
    """As in every answer of ours."""
    body = f"""
y = pb_utils.Tensor("y", np.array([1, np.nan, np.inf], np.float16))
z = pb_utils.Tensor("z", np.array([b"a", bytes([255])], object))
sender = requests[0].get_response_sender()
sender.send({OK})
sender.send(pb_utils.InferenceResponse([y, z], parameters={{"a": 1}}), {FINAL})
"""
    _, found = lines(load(executing(body), DECOUPLED).call([ask()])[0])
    assert found["parameters"] == {"a": 1}
    assert [each["datatype"] for each in found["outputs"]] == ["FP16", "BYTES"]
    assert [each["data"] for each in found["outputs"]] == [[1, None, None], ["a", {"b64": "/w=="}]]


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
    with pytest.raises(Exception, match="Calling the model 'other' from a model is not possible"):
        load(executing(code)).call([ask()])


def test_without_numpy_the_error_says_what_to_add(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model's own environment may lack it."""
    monkeypatch.setitem(sys.modules, "numpy", None)
    with pytest.raises(HandlerError, match="need numpy"):
        load("")


def test_a_decoupled_model_keeps_no_worker_from_ending(load: Load) -> None:
    """Threads of a call are daemons."""
    load(REPEAT, DECOUPLED).call([ask(x=[1])])
    assert all(each.daemon for each in threading.enumerate() if each is not threading.main_thread())


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
                "serving.workers.dialects.triton_python"}}, ours
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=60)
