"""The values that custom formatters of text generation are written against: a request's input and its output.

People subclass `TextInput` and annotate with `TextGenerationOutput`. We run no continuous batching of our own, so these
are plain records.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


class Token:
    """One generated token: its id, its text and its log probability."""

    def __init__(
        self,
        id: int,  # noqa: A002  the name that people pass
        text: str,
        log_prob: float | None = None,
        special_token: bool | None = None,
        error_msg: str | None = None,
    ) -> None:
        self.id = id
        self.text = text
        self.log_prob = log_prob
        self.special_token = special_token
        self.error_msg = error_msg
        self.request_id: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return id, text and log_prob, and the rest where it is set."""
        rest = {"special_token": self.special_token, "error_msg": self.error_msg}
        return {"id": self.id, "text": self.text, "log_prob": self.log_prob, **{k: v for k, v in rest.items() if v}}


@dataclass
class Sequence:
    """The tokens of one generated sequence."""

    tokens: list[Token] = field(default_factory=list)
    top_tokens: list[list[Token]] = field(default_factory=list)
    cumulative_log_prob: float = 0.0
    finish_reason: str | None = None
    stop_reason: str | None = None


@dataclass
class RequestInput:
    """What every request brings."""

    request_id: int
    output_formatter: Any = None
    parameters: dict[str, Any] = field(default_factory=dict)
    server_parameters: dict[str, Any] = field(default_factory=dict)
    tgi_compat: bool = False


@dataclass
class TextInput(RequestInput):
    """A request for generated text."""

    input_text: Any = None
    input_ids: list[int] = field(default_factory=list)
    adapters: Any = None
    tokenizer: Any = None
    found_adapters: bool = False

    def prompt_tokens_length(self) -> int:
        """Count the tokens of the prompt."""
        return len(self.input_ids)


@dataclass
class RequestOutput:
    """What every answer tells."""

    request_id: int
    input: RequestInput
    finished: bool = False


@dataclass
class TextGenerationOutput(RequestOutput):
    """Generated sequences by their number; `best_sequence_index` is the one to show."""

    sequences: dict[int, Sequence] = field(default_factory=dict)
    best_sequence_index: int = 0
    prompt_tokens_details: list[Token] = field(default_factory=list)
    other_sequences_indices: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.sequences.setdefault(self.best_sequence_index, Sequence())

    def get_tokens_as_dict(self, sequence_index: int = 0) -> list[dict[str, Any]]:
        """Return the tokens of a sequence as dicts."""
        return [token.as_dict() for token in self.sequences[sequence_index].tokens]
