"""What runs a task: transformers' pipelines, and ours for what they do not do (any more).

Each class is a callable `(inputs, parameters) -> answer`. Question answering and text to text, which version 5 dropped,
answer as the pipelines of transformers 4 did, keys and all, for the endpoints that rely on them; `Tensors` is for
folders with weights alone. Knows no bodies and no headers; `huggingface` chooses among these, and turns a `ValueError`
into a 400.
"""

from __future__ import annotations

from typing import Any

# The defaults of the question answering pipeline of transformers 4, in tokens.
_WINDOW, _STRIDE, _ANSWER = 384, 128, 15
_TEXT_KEYS = {"summarization": "summary_text", "translation": "translation_text"}


class Piped:
    """A pipeline of transformers, with its model and its tokenizer, if it has one."""

    def __init__(self, pipeline: Any) -> None:
        self.pipeline = pipeline
        self.model, self.tokenizer = pipeline.model, getattr(pipeline, "tokenizer", None)

    def __call__(self, inputs: Any, parameters: dict[str, Any]) -> Any:
        """Run the pipeline; raises what it does."""
        return self.pipeline(inputs, **parameters)


class QuestionAnswering:
    """Find the answer to a question in its context: `{"question", "context"}` to `{"score", "start", "end", "answer"}`.

    `start` and `end` count characters of the context. Contexts longer than the model are read in windows.
    """

    def __init__(self, folder: str, device: str, options: dict[str, Any]) -> None:
        from transformers import AutoModelForQuestionAnswering, AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(folder, **options)
        self.model = AutoModelForQuestionAnswering.from_pretrained(folder, **options).to(device).eval()
        longest = getattr(self.model.config, "max_position_embeddings", _WINDOW)
        self.window = min(_WINDOW, longest, self.tokenizer.model_max_length)

    def __call__(self, inputs: Any, parameters: dict[str, Any]) -> Any:
        """Answer one question, or a list of them; raises `ValueError` for what is neither."""
        if isinstance(inputs, list):
            return [self(each, parameters) for each in inputs]
        asked = inputs if isinstance(inputs, dict) else {}
        question, context = asked.get("question"), asked.get("context")
        if not all(isinstance(text, str) and text.strip() for text in (question, context)):
            raise ValueError('inputs wants {"question": "...", "context": "..."}, or a list of those')
        unknown = sorted(set(parameters) - {"top_k", "max_answer_len"})
        if unknown:
            raise ValueError(f"parameters {unknown} are not known here: top_k and max_answer_len are")
        best, longest = int(parameters.get("top_k", 1)), int(parameters.get("max_answer_len", _ANSWER))
        spans = self._spans(str(question), str(context), best, longest)
        answers = [
            {"score": score, "start": start, "end": end, "answer": str(context)[start:end]}
            for score, start, end in spans
        ]
        return answers[0] if best == 1 and answers else answers

    def _spans(self, question: str, context: str, best: int, longest: int) -> list[tuple[float, int, int]]:
        """Return the best (score, start, end) over all windows, best first, no span twice."""
        import torch

        windows = self.tokenizer(
            question,
            context,
            truncation="only_second",
            max_length=self.window,
            stride=min(_STRIDE, self.window // 4),
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
            padding=True,
            return_tensors="pt",
        )
        windows.pop("overflow_to_sample_mapping", None)
        offsets = windows.pop("offset_mapping")
        with torch.inference_mode():
            output = self.model(**windows.to(self.model.device))
        found: dict[tuple[int, int], float] = {}
        for number, places in enumerate(offsets.tolist()):
            allowed = torch.tensor([each == 1 for each in windows.sequence_ids(number)])
            scores = _scores(output.start_logits[number], output.end_logits[number], allowed, longest)
            top = scores.flatten().topk(min(best, scores.numel()))
            for score, index in zip(top.values.tolist(), top.indices.tolist()):  # noqa: B905  Python 3.9
                first, last = divmod(index, scores.shape[1])
                span = (places[first][0], places[last][1])
                if score > 0:
                    found[span] = max(score, found.get(span, 0.0))
        ranked = sorted(found.items(), key=lambda item: -item[1])[:best]
        return [(score, start, end) for (start, end), score in ranked]


def _scores(start: Any, end: Any, allowed: Any, longest: int) -> Any:
    """Return [tokens, tokens]: how likely an answer runs from one to the other; 0 where none may."""
    first, last = (_chances(logits, allowed) for logits in (start, end))
    spans = first.unsqueeze(1) * last.unsqueeze(0)
    return spans.triu().tril(longest - 1)


def _chances(logits: Any, allowed: Any) -> Any:
    """Softmax over the context's tokens alone."""
    masked = logits.float().cpu().masked_fill(~allowed, float("-inf"))
    return masked.softmax(-1)


class TextToText:
    """Generate with an encoder and a decoder (T5, BART, Marian): a text or a list of them to a list of objects.

    The key is `generated_text`, or `summary_text` and `translation_text` for those tasks; `parameters` are those of
    `generate`. A task's prefix in config.json is put before each text.
    """

    def __init__(self, folder: str, device: str, options: dict[str, Any], task: str) -> None:
        from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(folder, **options)
        self.model = AutoModelForSeq2SeqLM.from_pretrained(folder, **options).to(device).eval()
        of_task = (getattr(self.model.config, "task_specific_params", None) or {}).get(task) or {}
        self.prefix = of_task.get("prefix") or ""
        self.defaults = {name: value for name, value in of_task.items() if name != "prefix"}
        self.key = _TEXT_KEYS.get(task.partition("_")[0], "generated_text")

    def __call__(self, inputs: Any, parameters: dict[str, Any]) -> Any:
        """Generate from one text or a list of them; raises `ValueError` for what is neither."""
        import torch

        texts = inputs if isinstance(inputs, list) else [inputs]
        if not texts or not all(isinstance(text, str) for text in texts):
            raise ValueError("inputs wants a text, or a list of texts")
        encoded = self.tokenizer(
            [self.prefix + text for text in texts], padding=True, truncation=True, return_tensors="pt"
        )
        encoded.pop("token_type_ids", None)  # these models have none
        with torch.inference_mode():
            tokens = self.model.generate(**encoded.to(self.model.device), **{**self.defaults, **parameters})
        return [{self.key: text} for text in self.tokenizer.batch_decode(tokens, skip_special_tokens=True)]


class Tensors:
    """Run the model on token ids: `{"input_ids": [[...]], ...}` to `{"logits": ...}` or `{"last_hidden_state": ...}`.

    For folders without a tokenizer. A flat list is one sample; the answers keep the batch.
    """

    def __init__(self, folder: str, device: str, options: dict[str, Any], auto_class: str, model: Any = None) -> None:
        import inspect

        import transformers

        if model is None:
            model = getattr(transformers, auto_class).from_pretrained(folder, **options).to(device).eval()
        self.model = model
        self.names = set(inspect.signature(self.model.forward).parameters) - {"kwargs", "labels", "return_dict"}

    def __call__(self, inputs: Any, parameters: dict[str, Any]) -> Any:
        """Run one batch; raises `ValueError` for names that the model does not take."""
        import torch

        if parameters:
            raise ValueError("a model without a tokenizer takes no parameters")
        arrays = inputs if isinstance(inputs, dict) else {"input_ids": inputs}
        unknown = sorted(set(arrays) - self.names)
        if unknown or not arrays or any(not isinstance(each, list) for each in arrays.values()):
            raise ValueError(
                "the folder has no tokenizer (tokenizer.json), so that inputs wants arrays by name, "
                f'{{"input_ids": [[...]]}}, and has {unknown or "something else"}'
            )
        tensors = {name: self._tensor(values) for name, values in arrays.items()}
        with torch.inference_mode():
            output = self.model(**tensors)
        return {name: value.float().tolist() for name, value in output.items() if isinstance(value, torch.Tensor)}

    def _tensor(self, values: Any) -> Any:
        import torch

        tensor = torch.tensor(values, device=self.model.device)
        tensor = tensor.unsqueeze(0) if tensor.dim() == 1 else tensor
        return tensor.to(self.model.dtype) if tensor.is_floating_point() else tensor
