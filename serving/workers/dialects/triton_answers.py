"""What a model of Triton's Python backend answers, as replies: outputs, an error with a status, or a stream.

One response is a normal answer, any other number is streamed as it comes, a line of JSON each, or an `answer_frames`
frame for who asks for tensors. Knows the classes that the model sees by the module that it is given; runs under foreign
interpreters. `triton_python` has a model execute and hands over what came of it.
"""

from __future__ import annotations

import json
from types import ModuleType
from typing import Any

from serving.workers import answer_frames
from serving.workers.dialects.triton_faults import NAMES, STATUSES, is_memory, told
from serving.workers.handler import Reply, Request

_NDJSON = "application/x-ndjson"

_dumps, _loads = json.dumps, json.loads


class Answers:
    """Those of the model `name`, whose `output_names` are none where it does not tell."""

    def __init__(self, utils: ModuleType, name: str, version: int, instance: str, output_names: list[str]) -> None:
        self._utils, self._name, self._version, self._instance = utils, name, version, instance
        self._output_names = output_names

    def collect(self, request: Request, mailbox: Any, is_alone: bool) -> Reply:
        """Make a reply of what comes: nothing or one response is a normal one, more are a stream.

        For who asks for tensors one is a stream too: its frame says whether it was sent as the last. Of several
        requests only one could be streamed: their lines are sent whole.
        """
        wants_tensors = request.about.get("stream") == "tensors"
        first, is_last = mailbox.get()
        if is_last and not (wants_tensors and isinstance(first, self._utils.InferenceResponse)):
            return self.reply(first)
        begun = [(first, is_last)]
        if not wants_tensors:
            second, is_last = mailbox.get()
            if is_last and (second is None or isinstance(second, self._utils._sender.Abandoned)):
                return self.reply(first)
            begun.append((second, is_last))
        headers = {"Content-Type": answer_frames.TYPE if wants_tensors else _NDJSON}
        lines = _Lines(self._frame if wants_tensors else self._line, mailbox, begun)
        return Reply(headers=headers, chunks=lines) if is_alone else Reply(b"".join(lines), headers=headers)

    def reply(self, answer: Any) -> Reply:
        """Make a reply of one response, of an exception instead of it, or of None for nothing."""
        if answer is None:
            return Reply(headers={"Content-Type": _NDJSON})
        message, status = self._fault(answer)
        if message:
            code = NAMES.get(answer.error().code(), "") if isinstance(answer, self._utils.InferenceResponse) else ""
            return Reply(_error(message, code), status, {"Content-Type": "application/json"})
        return Reply(tensors=self._arrays(answer))

    def _fault(self, answer: Any) -> tuple[str, int]:
        """Return what is wrong with an answer and the status for it; an empty message for nothing."""
        if isinstance(answer, self._utils._sender.Abandoned):
            final = "TRITONSERVER_RESPONSE_COMPLETE_FINAL"
            return f"Model '{self._name}' let go of a request without an answer: send one, the last with {final}.", 424
        if isinstance(answer, Exception):
            return told(answer, self._instance), 507 if is_memory(answer) else 424
        if isinstance(answer, BaseException):
            raise answer
        if answer.has_error():
            error = answer.error()
            return error.message() or "The model gave an error without a message.", STATUSES[error.code()]
        return "", 200

    def _arrays(self, answer: Any) -> dict[str, Any]:
        """Return an answer's outputs; one that is not in the configuration is dropped, and any may be missing."""
        tensors = {each.name(): each for each in answer.output_tensors()}
        names = [name for name in tensors if name in self._output_names or not self._output_names]
        return {name: self._utils._tensor.wire_array(tensors[name]) for name in names}

    def _frame(self, answer: Any, is_last: bool) -> bytes:
        message, _ = self._fault(answer)
        if message:
            return answer_frames.write_error(message, is_last=is_last)
        return answer_frames.write(self._arrays(answer), _loads(answer.parameters()), is_last=is_last)

    def _line(self, answer: Any, _is_last: bool) -> bytes:
        message, _ = self._fault(answer)
        if message:
            return _error(message) + b"\n"
        parameters = _loads(answer.parameters())
        line = {
            "model_name": self._name,
            "model_version": str(self._version),
            **({"parameters": parameters} if parameters else {}),
            "outputs": [_v2(*each) for each in self._arrays(answer).items()],
        }
        return _dumps(line).encode() + b"\n"


class _Lines:
    """The lines of a stream, made as the model sends; closing it tells the model that nobody listens any more."""

    def __init__(self, line: Any, mailbox: Any, first: list[tuple[Any, bool]]) -> None:
        self._line, self._mailbox, self._first = line, mailbox, first
        self._is_over = False

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> bytes:
        if self._is_over:
            raise StopIteration
        answer, self._is_over = self._first.pop(0) if self._first else self._mailbox.get()
        if self._is_over and (answer is None or type(answer).__name__ == "Abandoned"):
            raise StopIteration
        line: bytes = self._line(answer, self._is_over)
        return line

    def close(self) -> None:
        """Stop; the model sees `is_cancelled()`."""
        if not self._is_over:
            self._mailbox.cancel()
        self._is_over = True


def _v2(name: str, array: Any) -> dict[str, Any]:
    kind, bits = array.dtype.kind, array.dtype.itemsize * 8
    datatype = {"O": "BYTES", "b": "BOOL", "f": f"FP{bits}", "i": f"INT{bits}", "u": f"UINT{bits}"}[kind]
    values = array.ravel().tolist()
    if kind == "O":
        values = [_text(each) for each in values]
    if kind == "f":
        values = [each if each - each == 0 else None for each in values]  # NaN and infinity have no JSON
    return {"name": name, "datatype": datatype, "shape": list(array.shape), "data": values}


def _text(value: bytes) -> Any:
    import base64

    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"b64": base64.b64encode(value).decode()}


def _error(message: str, code: str = "") -> bytes:
    return _dumps({"error": message, **({"code": code} if code else {})}).encode()
