"""Text generation that hands out its tokens, the last one with how it ended.

The task's own runner does the work, as for a whole answer, and nothing runs while a token is handed out: whatever the
request's parameters, the tokens are those of the whole answer, and their texts together are its generated part.
`generate` tells of a token when it has chosen it. The token is handed out when the model is about to run again, or has
ended: only then is it known whether it was the last. Works with transformers 4 and 5; `huggingface` and
`djl_python.huggingface` call it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from serving.workers.dialects.stepwise import Function, HandOut
from serving.workers.dialects.token_texts import TokenTexts

# Tokens of a prompt that are enough to tell how a text goes on after it; Text Generation Inference takes as many.
_BEFORE = 5
# The tasks whose models generate.
TASKS = ("text-generation", "text2text-generation", "summarization", "translation")


@dataclass
class Ending:
    """Of the last token: the whole text, why it ended (length, eos_token, stop_sequence), what was asked."""

    text: str
    reason: str
    inputs: Any
    input_tokens: int


@dataclass
class Token:
    """One token, the `number`-th; `log_prob` under the model before temperature and the like, None where unknown."""

    number: int
    id: int
    text: str
    log_prob: float | None
    is_special: bool
    ending: Ending | None = None


@dataclass
class Generator:
    """What generates: `run(inputs, parameters)` gives the whole answer, with this model and this tokenizer."""

    task: str
    run: Callable[[Any, dict[str, Any]], Any]
    model: Any
    tokenizer: Any

    @property
    def makes_tokens(self) -> bool:
        """Whether there is something to stream."""
        return self.task.partition("_")[0] in TASKS and self.tokenizer is not None


def stream(generator: Generator, inputs: Any, parameters: dict[str, Any]) -> Function:
    """Return what hands out the tokens (`Token`) of one text; it raises what the runner does.

    Raises `ValueError` for more than one text.
    """
    if _is_several(inputs) and len(inputs) != 1:
        raise ValueError(f"a stream is of one text, and inputs has {len(inputs)}")
    return _Generation(generator, inputs, dict(parameters)).run


def _is_several(inputs: Any) -> bool:
    """Whether this is a list of texts; one of objects is a chat, which is one."""
    return isinstance(inputs, list) and not (inputs and isinstance(inputs[0], dict))


class _Generation:
    """One run, which listens to it: `generate` takes it for a streamer (put, end) and for a logits processor (call)."""

    def __init__(self, generator: Generator, inputs: Any, parameters: dict[str, Any]) -> None:
        self._generator = generator
        self._inputs = inputs  # as they came: a pipeline draws one random number more for a list
        self._parameters = parameters
        parameters.pop("details", None)  # LMI's and TGI's wish for them; they always come
        self._has_prompt = generator.task == "text-generation"  # whose whole text begins with it
        self._is_whole = self._has_prompt and bool(parameters.pop("return_full_text", False))
        tokenizer = generator.tokenizer
        self._special = set(tokenizer.all_special_ids)
        self._texts: TokenTexts
        self._told = ""
        self._input_tokens = self._count = 0
        self._scores: dict[int, Any] = {}  # by the length of what they follow
        self._last: Token | None = None

    def run(self, hand_out: HandOut) -> None:
        self._hand_out = hand_out
        ours = {"streamer": self, "logits_processor": [self]}
        if self._has_prompt:
            ours["return_full_text"] = False
        hook = self._generator.model.register_forward_pre_hook(self._flush)
        try:
            answer = self._generator.run(self._inputs, {**self._parameters, **ours})
        finally:
            hook.remove()
            del self._hand_out  # it knows its reader, who knows this run
            self._scores.clear()
        if self._last is not None:
            hand_out(self._ended(self._last, answer))

    # ---- what generate calls ---------------------------------------------------------------------------------------

    def put(self, value: Any) -> None:
        """Take the prompt first, then a token, or those that a speculation got right."""
        if not self._input_tokens:
            if value.dim() > 1 and value.shape[0] > 1:
                raise ValueError("a stream is of one text: num_beams and num_return_sequences want 1")
            self._input_tokens = value.shape[-1]
            before = value.flatten().tolist() if self._has_prompt and _continues() else []
            self._texts = _texts(self._generator.tokenizer, self._parameters, before[-_BEFORE:])
            return
        for token in value.flatten().tolist():
            self._flush()
            self._last = self._token(token)
        self._scores.clear()

    def end(self) -> None:
        """Nothing to do: the runner's answer tells more."""

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        self._scores[input_ids.shape[-1]] = scores
        return scores

    # ---- tokens -----------------------------------------------------------------------------------------------------

    def _flush(self, *_: Any) -> None:
        """Hand out the token that was not the last."""
        if self._last is not None:
            token, self._last = self._last, None
            self._hand_out(token)

    def _token(self, token: int) -> Token:
        scores = self._scores.get(self._input_tokens + self._count)
        self._count += 1
        text = self._texts.add(token)
        self._told += text
        return Token(self._count, token, text, _log_prob(scores, token), token in self._special)

    def _ended(self, token: Token, answer: Any) -> Token:
        """Return the last token with the rest of the text.

        The answer has it, but where a byte that is no character spoiled good ones before it, which were told already.
        """
        while isinstance(answer, list):
            (answer,) = answer
        text = str(next(iter(answer.values())))
        token.text += text[len(self._told) :] if text.startswith(self._told) else self._texts.rest()
        reason = self._reason(token.id, text)
        asked = self._inputs[0] if _is_several(self._inputs) else self._inputs
        if self._is_whole and isinstance(asked, str):
            text = asked + text
        token.ending = Ending(text, reason, asked, self._input_tokens)
        return token

    def _reason(self, token: int, text: str) -> str:
        ends = self._parameters.get("eos_token_id", self._generator.model.generation_config.eos_token_id)
        if token in (ends if isinstance(ends, (list, tuple)) else [ends]):
            return "eos_token"
        stops = [self._parameters.get(name) or [] for name in ("stop_strings", "stop_sequence")]
        words = [word for each in stops for word in ([each] if isinstance(each, str) else each)]
        return "stop_sequence" if any(word in text for word in words) else "length"


def _continues() -> bool:
    """Whether a pipeline decodes what it made together with the prompt: transformers 4 does, 5.23 does not."""
    import transformers

    return str(transformers.__version__).startswith("4.")


def _texts(tokenizer: Any, parameters: dict[str, Any], before: list[int]) -> TokenTexts:
    """Return texts as the pipeline decodes them."""
    how = {"skip_special_tokens": True}
    for name in ("skip_special_tokens", "clean_up_tokenization_spaces"):
        if parameters.get(name) is not None:
            how[name] = parameters[name]
    is_cleaned = how.get("clean_up_tokenization_spaces", getattr(tokenizer, "clean_up_tokenization_spaces", False))
    return TokenTexts(lambda ids: str(tokenizer.decode(ids, **how)), is_cleaned=bool(is_cleaned), before=before)


def _log_prob(scores: Any, token: int) -> float | None:
    if scores is None:
        return None
    row = scores[0]
    found = float(row[token] - row.logsumexp(-1))
    return found if math.isfinite(found) else None
