"""The built-in handler for a Hugging Face folder or hub name: a transformers pipeline behind `handle`.

People name it as an entry point (`djl_python.huggingface`) or keep a `HuggingFaceService` and replace its
`parse_input`. It knows no continuous batching and no adapters: requests of a batch run one after the other.
A request may be answered token by token; `workers.dialects` knows how. A batch with such a one is asked for again,
request by request. transformers is the image's or the
model's own; without it the warm-up says so.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from serving.workers.dialects import huggingface_bodies, huggingface_tokens
from serving.workers.dialects.djl_output import OneByOne
from serving.workers.dialects.huggingface_lines import JSON_LINES, Form, Lines, by_options, named

from .encode_decode import decode, encode
from .inputs import Input
from .outputs import Output

# The ends of a configuration's architecture names, and the pipeline that runs such a model.
TASKS = {
    "ForQuestionAnswering": "question-answering",
    "ForTokenClassification": "token-classification",
    "ForSequenceClassification": "text-classification",
    "ForMaskedLM": "fill-mask",
    "ForImageClassification": "image-classification",
    "ForCausalLM": "text-generation",
    "LMHeadModel": "text-generation",
    "ForConditionalGeneration": "text2text-generation",
}


class HuggingFaceService:
    """One pipeline; `initialize` builds it, `inference` answers."""

    def __init__(self) -> None:
        self.initialized = False
        self.hf_pipeline: Any = None
        self.model: Any = None
        self.tokenizer: Any = None
        self.default_form: Form | None = None

    def initialize(self, properties: dict[str, Any]) -> None:
        """Load `model_id` (a folder or a hub name; else the model's folder) for `task`.

        Raises RuntimeError without transformers, ValueError where the task is neither given nor told by config.json.
        """
        try:
            from transformers import pipeline
        except ImportError as error:
            raise RuntimeError(
                "djl_python.huggingface needs transformers, which cannot be imported here "
                f"({error}): bring it in the model's requirements.txt, or bring a handler of your own."
            ) from error
        model_id = properties.get("model_id") or properties["model_dir"]
        task = properties.get("task") or _task_of(model_id)
        device_id = int(properties.get("device_id", -1))
        device = "cpu" if device_id < 0 else f"cuda:{device_id}"
        arguments = _arguments(properties)
        ranks = int(os.environ.get("WORLD_SIZE", "1"))
        if ranks > 1:
            device, arguments = _split(model_id, task, ranks, {**arguments, "split": properties.get("split")})
        else:
            arguments["model"] = model_id
        self.hf_pipeline = pipeline(task=task, device=device, **arguments)
        self.model, self.tokenizer = self.hf_pipeline.model, getattr(self.hf_pipeline, "tokenizer", None)
        self.default_form = by_options(properties)
        self.initialized = True

    def parse_input(self, inputs: Input) -> Any:
        """Return what `inference` runs: inputs (flat), inputs a request, parameters a request, errors, requests."""
        input_data: list[Any] = []
        input_size: list[int] = []
        parameters: list[dict[str, Any]] = []
        errors: dict[int, str] = {}
        batch = inputs.get_batches()
        for index, item in enumerate(batch):
            try:
                values, options = _values(decode(item, item.get_property("Content-Type")))
            except Exception as error:  # one bad request of a batch is one error, not all
                errors[index] = str(error)
                continue
            input_data += values
            input_size.append(len(values))
            parameters.append(options)
        return input_data, input_size, parameters, errors, batch

    def inference(self, inputs: Input) -> Output:
        """Answer a request or a batch: a list of the pipeline's results for each request.

        Raises `OneByOne` for a batch in which somebody wants a stream: its headers are not the others'.
        """
        input_data, input_size, parameters, errors, batch = self.parse_input(inputs)
        outputs = Output()
        if errors and not inputs.is_batch():
            return outputs.error(next(iter(errors.values())))
        wishes = [options.pop("stream", None) for options in parameters]
        if not inputs.is_batch():
            form = self._form(batch[0], wishes[0])
            if form is not None:
                return self._streamed(input_data, parameters[0], form)
        elif self._streams_any([item for index, item in enumerate(batch) if index not in errors], wishes):
            raise OneByOne
        runs = iter(zip(_sliced(input_data, input_size), parameters))  # noqa: B905  Python 3.9
        for index, item in enumerate(batch):
            key = f"batch_{index:03d}.data" if inputs.is_batch() else None
            if index in errors:
                outputs.add_as_json({"code": 424, "error": errors[index]}, key)
            else:
                values, options = next(runs)
                encode(outputs, self._run(values, options), _accepted(item), key)
        return outputs

    def _run(self, values: list[Any], options: dict[str, Any]) -> list[Any]:
        found = self.hf_pipeline(values, **_seeded(options))
        rows = found if isinstance(found, list) else [found]
        return [row[0] if isinstance(row, list) and len(row) == 1 else row for row in rows]

    def _streams_any(self, items: list[Input], wishes: list[Any]) -> bool:
        """Whether one of a batch wants a stream, be it one that cannot be had: that is its own error."""
        return any(wish or self._form(item, wish) for item, wish in zip(items, wishes))  # noqa: B905  Python 3.9

    def _form(self, item: Input, wish: Any) -> Form | None:
        """Return the form of the stream that is wanted, None for a whole answer.

        The request's `stream` says whether, else Accept or the options. Accept says which where it names one.
        """
        if not self._generator().makes_tokens:
            if wish:
                raise ValueError("This model makes no tokens that could be streamed: omit 'stream'.")
            return None
        form = named(item.get_property("Accept") or "") or self.default_form
        is_wanted = form is not None if wish is None else wish
        return form or JSON_LINES if is_wanted else None

    def _streamed(self, values: list[Any], options: dict[str, Any], form: Form) -> Output:
        output = Output()
        for name, value in form.headers.items():
            output.add_property(name, value)
        tokens = huggingface_tokens.stream(self._generator(), values, _seeded(options))
        return output.add_stream_content(Lines(tokens, form).begin(), output_formatter=None)

    def _generator(self) -> huggingface_tokens.Generator:
        task = getattr(self.hf_pipeline, "task", "")
        return huggingface_tokens.Generator(task, self._whole, self.model, self.tokenizer)

    def _whole(self, inputs: Any, options: dict[str, Any]) -> Any:
        return self.hf_pipeline(inputs, **options)


def _seeded(options: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters without `seed`, from which random numbers begin."""
    huggingface_bodies.use_seed(options)
    return options


def _task_of(model_id: str) -> str:
    file = Path(model_id, "config.json")
    architectures = json.loads(file.read_text("utf-8")).get("architectures") or [] if file.exists() else []
    for architecture in architectures:
        for end, task in TASKS.items():
            if architecture.endswith(end):
                return task
    raise ValueError(f"{model_id} has the architectures {architectures}, which tell no task: set option.task.")


def _split(model_id: str, task: str, ranks: int, arguments: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return the device of this rank, and what a pipeline over its part of the model takes."""
    from serving.workers.dialects import huggingface_ranks

    kind = "cuda" if os.environ.get("CUDA_VISIBLE_DEVICES") else "cpu"
    model = huggingface_ranks.load_ranked(task, model_id, ranks, kind, arguments)
    return huggingface_ranks.place(kind), {"model": model, "tokenizer": model_id}


def _arguments(properties: dict[str, Any]) -> dict[str, Any]:
    names = {"revision": "revision", "dtype": "dtype"}
    arguments = {name: properties[key] for key, name in names.items() if properties.get(key)}
    short = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
    if "dtype" in arguments:
        arguments["dtype"] = short.get(arguments["dtype"], arguments["dtype"])
    if str(properties.get("trust_remote_code", "")).lower() == "true":
        arguments["trust_remote_code"] = True
    return arguments


def _values(decoded: Any) -> tuple[list[Any], dict[str, Any]]:
    if not isinstance(decoded, dict):
        return (decoded if isinstance(decoded, list) else [decoded]), {}
    options = decoded.pop("parameters", None) or {}
    if "inputs" in decoded and "stream" in decoded:
        options["stream"] = decoded["stream"]
    values = decoded.pop("inputs", decoded)
    return (values if isinstance(values, list) else [values]), options


def _sliced(values: list[Any], sizes: list[int]) -> list[list[Any]]:
    ends = [sum(sizes[: index + 1]) for index in range(len(sizes))]
    return [values[end - size : end] for end, size in zip(ends, sizes)]  # noqa: B905  Python 3.9


def _accepted(item: Input) -> str:
    """Return the media type of a whole answer: JSON too where only a stream would be welcome."""
    accept = item.get_property("Accept") or ""
    return "application/json" if not accept or "*/*" in accept or named(accept) else accept


_service = HuggingFaceService()


def handle(inputs: Input) -> Output | None:
    """Load at the first call, answer requests at any other."""
    if not _service.initialized:
        _service.initialize(inputs.get_properties())
    return None if inputs.is_empty() else _service.inference(inputs)
