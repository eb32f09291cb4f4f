"""A Hugging Face folder (config.json, safetensors) through transformers: bodies as its inference toolkit takes them.

Knows how to tell the task from the configuration and what runs it, and that nothing is ever downloaded. The answer is
what the task's pipeline returns, as JSON, or token by token. Leaves bodies to `huggingface_bodies`, streams to
`huggingface_tokens` and `huggingface_lines`, and the tasks that pipelines do not have to `huggingface_tasks`. Knows no
channel; `main` calls `load` in the worker.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any

from serving.workers.dialects import huggingface_bodies as bodies
from serving.workers.dialects import huggingface_lines, huggingface_ranks, huggingface_tasks, huggingface_tokens
from serving.workers.dialects.rows import missing
from serving.workers.dialects.stepwise import Function, HandOut
from serving.workers.handler import HandlerError, Launch, Reply, Request

_loads = json.loads  # people's code may replace it

# Suffix of an architecture's name: its task. The first that fits counts.
_TASKS_BY_ARCHITECTURE = (
    ("TapasForQuestionAnswering", "table-question-answering"),
    ("ForQuestionAnswering", "question-answering"),
    ("ForTokenClassification", "token-classification"),
    ("ForSequenceClassification", "text-classification"),
    ("ForMaskedLM", "fill-mask"),
    ("WhisperForConditionalGeneration", "automatic-speech-recognition"),
    ("ForCTC", "automatic-speech-recognition"),
    ("ForAudioClassification", "audio-classification"),
    ("ForImageClassification", "image-classification"),
    ("ForImageClassificationWithTeacher", "image-classification"),
    ("ForObjectDetection", "object-detection"),
    ("ForImageSegmentation", "image-segmentation"),
    ("ForDepthEstimation", "depth-estimation"),
    ("ForConditionalGeneration", "text2text-generation"),
    ("MTModel", "text2text-generation"),
    ("EncoderDecoderModel", "text2text-generation"),
    ("ForCausalLM", "text-generation"),
    ("LMHeadModel", "text-generation"),
    ("Model", "feature-extraction"),
)
_ALIASES = {
    "sentiment-analysis": "text-classification",
    "ner": "token-classification",
    "embedding": "feature-extraction",
}
# Task: the class that loads its model when there is no tokenizer to build a pipeline with.
_TEXT_TASKS = {
    "text-classification": "AutoModelForSequenceClassification",
    "zero-shot-classification": "AutoModelForSequenceClassification",
    "token-classification": "AutoModelForTokenClassification",
    "question-answering": "AutoModelForQuestionAnswering",
    "table-question-answering": "AutoModelForTableQuestionAnswering",
    "fill-mask": "AutoModelForMaskedLM",
    "text-generation": "AutoModelForCausalLM",
    "text2text-generation": "AutoModelForSeq2SeqLM",
    "summarization": "AutoModelForSeq2SeqLM",
    "translation": "AutoModelForSeq2SeqLM",
    "feature-extraction": "AutoModel",
}
_IMAGE_TASKS = {
    "image-classification", "object-detection", "image-segmentation", "depth-estimation", "image-feature-extraction",
    "zero-shot-image-classification", "zero-shot-object-detection",
}  # fmt: skip
_SOUND_TASKS = {"automatic-speech-recognition", "audio-classification", "zero-shot-audio-classification"}
_KNOWN = sorted({*_TEXT_TASKS, *_IMAGE_TASKS, *_SOUND_TASKS})
_TOKENIZERS = (
    "tokenizer.json", "tokenizer.model", "vocab.txt", "vocab.json", "spiece.model", "sentencepiece.bpe.model",
    "source.spm", "tekken.json",
)  # fmt: skip
Run = Callable[[Any, dict[str, Any]], Any]


def load(launch: Launch) -> HuggingFaceHandler:
    """Load the folder of `launch.file`, else `launch.folder`; raises `HandlerError` for what cannot be."""
    folder = _folder_of(launch)
    config = _read_config(launch, folder)
    task = _task(launch, config)
    _stay_offline()
    try:
        from transformers.utils import logging
    except ImportError as fault:
        raise missing(launch, fault.name or "transformers") from None
    logging.disable_progress_bar()
    options = {"trust_remote_code": launch.options.get("trust_remote_code", "").lower() == "true"}
    if "auto_map" in config and not options["trust_remote_code"]:
        _warn_of_remote_code(launch, config)
    try:
        return HuggingFaceHandler(task, _runner(launch, folder, task, options))
    except ModuleNotFoundError as fault:
        raise missing(launch, fault.name or str(fault)) from None


def _folder_of(launch: Launch) -> str:
    path = os.path.join(launch.folder, launch.file)  # noqa: PTH118  an absolute file stays as it is
    return os.path.dirname(path) if os.path.isfile(path) else path  # noqa: PTH113,PTH120


def _read_config(launch: Launch, folder: str) -> dict[str, Any]:
    path = os.path.join(folder, "config.json")  # noqa: PTH118
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            config = _loads(file.read())
    except OSError:
        raise HandlerError(f"Model '{launch.name}' has no config.json: save it with save_pretrained.") from None
    except ValueError as fault:
        raise HandlerError(f"config.json of model '{launch.name}' is not JSON: {fault}.") from None
    if not isinstance(config, dict):
        raise HandlerError(f"config.json of model '{launch.name}' is a {type(config).__name__} and wants an object.")
    return config


def _task(launch: Launch, config: dict[str, Any]) -> str:
    """Return the task: the option, else HF_TASK, else what the architecture is made for."""
    told = launch.options.get("task") or launch.environ.get("HF_TASK") or os.environ.get("HF_TASK")
    task = _ALIASES.get(told, told) if told else _task_of(config)
    if task is None or (task not in _KNOWN and not task.startswith("translation_")):
        raise HandlerError(
            f"Model '{launch.name}' (architectures {config.get('architectures')}) has the task '{told or 'unknown'}': "
            f"set the option task or HF_TASK to one of {', '.join(_KNOWN)}, or bring an inference.py."
        )
    return task


def _task_of(config: dict[str, Any]) -> str | None:
    name = str((config.get("architectures") or ["Model"])[0])
    task = next((task for suffix, task in _TASKS_BY_ARCHITECTURE if name.endswith(suffix)), None)
    if task == "text2text-generation" and ("vision_config" in config or name.startswith("Vision")):
        return None  # texts about images: no pipeline that all versions have
    if task == "text2text-generation" and list(config.get("task_specific_params") or ()) == ["summarization"]:
        return "summarization"
    return task


def _stay_offline() -> None:
    """Refuse the network to both libraries, also where the zygote imported them before us."""
    os.environ["HF_HUB_OFFLINE"] = os.environ["TRANSFORMERS_OFFLINE"] = "1"
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # threads of its own, which a fork would break
    constants = sys.modules.get("huggingface_hub.constants")
    if constants is not None:
        constants.HF_HUB_OFFLINE = True  # type: ignore[attr-defined]


def _warn_of_remote_code(launch: Launch, config: dict[str, Any]) -> None:
    files = sorted({str(value).partition(".")[0] for value in dict(config["auto_map"]).values()})
    print(  # noqa: T201  the model's log
        f"Model '{launch.name}' brings code of its own ({', '.join(files)}), which is not run: set the option "
        "trust_remote_code to true if it needs it and you trust it.",
        file=sys.stderr,
        flush=True,
    )


def _runner(launch: Launch, folder: str, task: str, options: dict[str, Any]) -> Run:
    """Choose what runs the task.

    0. In a group of ranks the model is split, for the tasks that only run it.
    1. A text task without a tokenizer runs on token ids.
    2. A task that this version of transformers has a pipeline for runs through it.
    3. What version 5 dropped is ours.
    """
    base = task.partition("_")[0]
    has_tokenizer = any(os.path.exists(os.path.join(folder, name)) for name in _TOKENIZERS)  # noqa: PTH110,PTH118
    model = None
    if launch.ranks > 1:
        how = {**options, "split": launch.options.get("split")}
        model = huggingface_ranks.load_ranked(task, folder, launch.ranks, launch.device, how)
    if base in _TEXT_TASKS and not has_tokenizer:
        return huggingface_tasks.Tensors(folder, launch.device, options, _TEXT_TASKS[base], model)
    from transformers import pipeline
    from transformers.pipelines import PIPELINE_REGISTRY

    if base in PIPELINE_REGISTRY.get_supported_tasks():
        if model is not None:
            options = {**options, "tokenizer": folder}
        device = huggingface_ranks.place(launch.device) if launch.ranks else launch.device
        built = pipeline(task, model=folder if model is None else model, device=device, **options)
        return huggingface_tasks.Piped(built)
    if base == "question-answering":
        return huggingface_tasks.QuestionAnswering(folder, launch.device, options)
    if base in ("text2text-generation", "summarization", "translation"):
        return huggingface_tasks.TextToText(folder, launch.device, options, task)
    raise HandlerError(f"This version of transformers has no '{task}': pin one that has in requirements.txt.")


class HuggingFaceHandler:
    """Answers raw bodies; nothing is told of tensors."""

    takes_tensors = False
    inputs: list[dict[str, Any]] | None = None
    outputs: list[dict[str, Any]] | None = None

    def __init__(self, task: str, run: Run) -> None:
        self.task = task
        self.kind = "image" if task in _IMAGE_TASKS else "audio" if task in _SOUND_TASKS else "text"
        self.run = run
        model, tokenizer = getattr(run, "model", None), getattr(run, "tokenizer", None)
        self.generator = huggingface_tokens.Generator(task, run, model, tokenizer)

    def call(self, requests: list[Request]) -> list[Reply]:
        """Answer each by itself: what shares a batch in transformers is padded, which is no gain on a CPU.

        Of several a stream is read to its end before the next answer is begun: it would draw from the other's seed.
        """
        if len(requests) == 1:
            return [self._answer(requests[0])]
        return [self._answer(request).whole() for request in requests]

    def close(self) -> None:
        """Nothing to say farewell to."""

    def _answer(self, request: Request) -> Reply:
        inputs, parameters = bodies.read(request, self.task, self.kind)
        form = self._form(request.header("Accept"), parameters.pop("stream", None))
        bodies.use_seed(parameters)
        try:
            if form is not None:
                generate = self._refusing(huggingface_tokens.stream(self.generator, inputs, parameters))
                return Reply(headers=form.headers, chunks=huggingface_lines.Lines(generate, form))
            answer = self.run(inputs, parameters)
        except Exception as fault:
            self._refuse(fault)
            raise
        return Reply(bodies.write(answer), headers={"Content-Type": "application/json"})

    def _refusing(self, generate: Function) -> Function:
        """Return a function that hands out the same, and raises as a whole answer would before its first token."""

        def run(hand_out: HandOut) -> None:
            is_begun = False

            def begin(token: Any) -> None:
                nonlocal is_begun
                is_begun = True
                hand_out(token)

            try:
                generate(begin)
            except Exception as fault:
                if not is_begun:
                    self._refuse(fault)
                raise

        return run

    def _refuse(self, fault: Exception) -> None:
        """Raise what is told of a request that the task does not take; any other exception is the caller's to raise."""
        # PipelineException is for a text without its [MASK] and the like; its room has moved between versions.
        if isinstance(fault, (ValueError, TypeError, KeyError)) or type(fault).__name__ == "PipelineException":
            said = bodies.last_line(fault)
            raise HandlerError(f"Task '{self.task}' does not take this request: {said}", 400) from fault

    def _form(self, accept: str, wish: Any) -> huggingface_lines.Form | None:
        """Return the form of the stream that is wanted, None for a whole answer."""
        if self.generator.makes_tokens:
            return huggingface_lines.wanted(accept, wish)
        if wish:
            raise HandlerError(f"Task '{self.task}' makes no tokens here that could be streamed: omit 'stream'.", 400)
        bodies.check_accept(accept)
        return None
