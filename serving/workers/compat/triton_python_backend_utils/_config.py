"""The model's configuration as a dict, in Triton's words, and the object that `auto_complete_config` completes.

What a model adds may fill what config.pbtxt leaves open and may not contradict it. It reads no file; the dialect makes
the object, people's models fill it.
"""

from __future__ import annotations

import json
from typing import Any

_loads = json.loads
_TENSOR_KEYS = {"input": ("name", "data_type", "dims", "optional"), "output": ("name", "data_type", "dims")}


class ModelConfig:
    """A configuration (given as JSON) that a model may complete. Methods raise ValueError for what contradicts it."""

    def __init__(self, model_config: str) -> None:
        self._config: dict[str, Any] = _loads(model_config)

    def as_dict(self) -> dict[str, Any]:
        """Return the configuration."""
        return self._config

    def set_max_batch_size(self, max_batch_size: int) -> None:
        """Set the largest batch, which is not below the one that is configured."""
        found = self._config.get("max_batch_size", 0)
        if found > max_batch_size:
            raise self._fault(f"max_batch_size {max_batch_size}", f"is configured with {found}")
        self._config["max_batch_size"] = max_batch_size

    def set_dynamic_batching(self) -> None:
        """Batch requests; nothing changes where that is configured."""
        for other in ("sequence_batching", "ensemble_scheduling"):
            if other in self._config:
                raise self._fault("dynamic_batching", f"is configured with {other}")
        self._config.setdefault("dynamic_batching", {})

    def set_model_transaction_policy(self, transaction_policy_dict: dict[str, Any]) -> None:
        """Say whether the model is `decoupled`, the one key there is."""
        if set(transaction_policy_dict) - {"decoupled"}:
            raise self._fault(f"the transaction policy {transaction_policy_dict}", "knows only 'decoupled'")
        found = self._config.get("model_transaction_policy")
        if found and transaction_policy_dict and found.get("decoupled") != transaction_policy_dict["decoupled"]:
            raise self._fault(f"the transaction policy {transaction_policy_dict}", f"is configured with {found}")
        self._config["model_transaction_policy"] = dict(transaction_policy_dict) or found or {"decoupled": False}

    def add_input(self, input: dict[str, Any]) -> None:  # noqa: A002  Triton's word
        """Add an input, `{"name", "data_type": "TYPE_FP32", "dims"}` and maybe "optional"."""
        self._add("input", input)

    def add_output(self, output: dict[str, Any]) -> None:
        """Add an output, `{"name", "data_type", "dims"}`."""
        self._add("output", output)

    def _add(self, kind: str, tensor: dict[str, Any]) -> None:
        allowed = _TENSOR_KEYS[kind]
        if set(tensor) - set(allowed) or set(allowed[:3]) - set(tensor):
            raise self._fault(f"the {kind} {tensor}", f"wants the keys {', '.join(allowed)}")
        tensor = {**tensor, "dims": list(tensor["dims"])}
        tensors = self._config.setdefault(kind, [])
        found = next((each for each in tensors if each["name"] == tensor["name"]), None)
        if found is None:
            tensors.append(tensor)
            return
        for key, value in tensor.items():
            if found.get(key) not in (None, "", "TYPE_INVALID", [], value):
                raise self._fault(f"the {kind} '{tensor['name']}' with {key} {value}", f"has {found[key]} configured")
        found.update(tensor)

    def _fault(self, what: str, against: str) -> ValueError:
        return ValueError(f"auto_complete_config gives {what}, and model '{self._config.get('name', '')}' {against}.")


def get_input_config_by_name(model_config: dict[str, Any], name: str) -> dict[str, Any] | None:
    """Return the input of that name in a configuration, or None."""
    return _named(model_config.get("input", []), name)


def get_output_config_by_name(model_config: dict[str, Any], name: str) -> dict[str, Any] | None:
    """Return the output of that name in a configuration, or None."""
    return _named(model_config.get("output", []), name)


def using_decoupled_model_transaction_policy(model_config: dict[str, Any]) -> bool:
    """Say whether a configuration lets the model answer a request any number of times."""
    return bool(model_config.get("model_transaction_policy", {}).get("decoupled", False))


def _named(tensors: list[dict[str, Any]], name: str) -> dict[str, Any] | None:
    return next((each for each in tensors if each["name"] == name), None)
