"""Text generation as an iterator of chunks, for `Output.add_stream_content`.

Both entry points that old handlers call are one iterator: `generate` stands still between two of its steps, and ends
where the iterator is closed, in all ranks of a group alike. `HFStreamer` is for handlers with a thread of their own.
torch and transformers are the handler's own and are imported by nothing here.
"""

from __future__ import annotations

import os
import queue
from collections.abc import Callable, Iterator
from typing import Any

from serving.workers.dialects.stepwise import HandOut, Stepwise

ENGINES = ("Accelerate", "DeepSpeed", "transformers-neuronx")
# Long enough to be useful, short enough to end soon where a handler says nothing.
MAX_NEW_TOKENS = 50

_END = object()


class HFStreamer:
    """What `generate(streamer=...)` puts tokens into and a reply takes texts from, one list of texts a step.

    `generate` puts the prompt first, as it was given; that is not passed on.
    """

    def __init__(self, tokenizer: Any, **decode_kwargs: Any) -> None:
        self.tokenizer = tokenizer
        self.decode_kwargs = decode_kwargs
        self.queue: queue.Queue[Any] = queue.Queue()
        self._is_prompt_due = True

    def put(self, value: Any) -> None:
        """Take a step's token ids, one of each sequence."""
        if self._is_prompt_due:
            self._is_prompt_due = False
            return
        self._take([self.tokenizer.decode([token], **self.decode_kwargs) for token in value.tolist()])

    def _take(self, texts: list[str]) -> None:
        self.queue.put(texts)

    def put_text(self, value: str) -> None:
        """Pass a text on as it is: the words of an error."""
        self.queue.put(value)

    def end(self) -> None:
        """End the iterator after what was put."""
        self.queue.put(_END)

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        chunk = self.queue.get()
        if chunk is _END:
            raise StopIteration
        return chunk


class _Stepping(HFStreamer):
    """One whose texts are handed out instead of queued."""

    def __init__(self, tokenizer: Any, hand_out: HandOut) -> None:
        super().__init__(tokenizer, skip_special_tokens=True)
        self._hand_out = hand_out

    def _take(self, texts: list[str]) -> None:
        self._hand_out(texts)


class StreamingUtils:
    """The two ways in which handlers ask for a stream of generated text."""

    DEFAULT_MAX_NEW_TOKENS = MAX_NEW_TOKENS
    BUILTIN_ENGINES = frozenset(ENGINES)

    @staticmethod
    def get_stream_generator(execution_engine: str) -> Callable[..., Any]:
        """Return the function to call with model, tokenizer, inputs, device and generate's arguments."""
        if execution_engine not in ENGINES:
            raise ValueError(f"No stream for the engine '{execution_engine}': known are {', '.join(ENGINES)}.")
        return StreamingUtils.use_hf_default_streamer

    @staticmethod
    def use_hf_default_streamer(model: Any, tokenizer: Any, inputs: Any, device: Any = None, **kwargs: Any) -> Any:
        """Return an iterator of lists of new texts for a list of texts; closing it ends the generation.

        An error in the model ends the stream, its words being the last chunk; in a rank of a group it is raised.
        """
        if not tokenizer.pad_token:
            tokenizer.pad_token = tokenizer.eos_token
        tokens = tokenizer(inputs, padding=True, return_tensors="pt")
        if device is not None:
            tokens = tokens.to(device)
        arguments = {"max_new_tokens": MAX_NEW_TOKENS, **dict(tokens), **kwargs}

        def generate(hand_out: HandOut) -> None:
            try:
                model.generate(**arguments, streamer=_Stepping(tokenizer, hand_out))
            except Exception as error:
                if int(os.environ.get("WORLD_SIZE", "1")) > 1:  # a chunk of this rank would look like its sister's
                    raise
                hand_out(str(error))

        return Stepwise(generate)
