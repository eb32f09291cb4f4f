"""Triton's `ModelConfig` as the vendor's own schema has it: text and JSON in, text and JSON out.

The schema comes with tritonclient; its module is loaded by its file, because the package around it wants grpc. This
room knows the two ways to write a configuration and nothing of what its fields mean. `config_pbtxt` and the rooms
beside it read messages through it; `wharf config` converts with it.
"""

from __future__ import annotations

import functools
import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

from serving.errors import InvalidArtifactError


def parse(text: str) -> Any:
    """Return a `ModelConfig` message. Raises `InvalidArtifactError` for text that is none, or without the schema."""
    schema, text_format = load_schema()
    try:
        return text_format.Parse(text, schema.ModelConfig())
    except (ValueError, RecursionError, text_format.ParseError) as error:
        raise _unparsed("config.pbtxt", error) from error


def read(file: Path) -> Any:
    """Return the `ModelConfig` message of a file; raises what `parse` raises."""
    try:
        return parse(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise _unparsed("config.pbtxt", error) from error


def converted(file: Path) -> str:
    """Return a config.pbtxt as JSON, and JSON (a file that ends in .json) as the text of a config.pbtxt.

    Raises `InvalidArtifactError` for what cannot be parsed.
    """
    if file.suffix != ".json":
        return json.dumps(as_json(read(file)), indent=2, ensure_ascii=False) + "\n"
    try:
        text = file.read_text("utf-8")
    except (OSError, ValueError) as error:
        raise _unparsed(file.name, error) from error
    return json_to_text(text, file.name)


def json_to_text(text: str, source: str) -> str:
    """Return the text of a config.pbtxt for a `ModelConfig` in JSON; raise `InvalidArtifactError` naming `source`."""
    schema, text_format = load_schema()
    from google.protobuf import json_format

    try:
        if not isinstance(json.loads(text), dict):  # of an empty list the parser makes an empty message
            raise ValueError("it is no JSON object")
        message = json_format.Parse(text, schema.ModelConfig())
    except (ValueError, RecursionError, json_format.ParseError) as error:
        raise _unparsed(source, error) from error
    return str(text_format.MessageToString(message, as_utf8=True))


def as_json(message: Any) -> dict[str, Any]:
    """Return a message of Triton's schema as its `/config` route writes it.

    Field names are the schema's, enums are names, integers of 64 bits numbers, and what has no presence of its own is
    there with its default; a message that is not set is left out.
    """
    return {
        field.name: _json_value(field, getattr(message, field.name))
        for field in message.DESCRIPTOR.fields
        if not field.has_presence or message.HasField(field.name)
    }


def as_text(message: Any) -> str:
    """Return a `ModelConfig` message as the text of a config.pbtxt."""
    return str(load_schema()[1].MessageToString(message, as_utf8=True))


def enum_name(message: Any, name: str) -> str:
    """Return the name of an enum's value in the field `name`; the number for one that the schema does not know."""
    return _enum_name(message.DESCRIPTOR.fields_by_name[name], getattr(message, name))


def set_fields(message: Any) -> list[str]:
    """Return the names of the fields that are set."""
    return [field.name for field, _ in message.ListFields()]


def _unparsed(name: str, error: Exception) -> InvalidArtifactError:
    fault = str(error).partition(" Available Fields")[0].strip()  # all of the schema's
    return InvalidArtifactError(f"{name} cannot be parsed ({fault}): correct it.")


def _json_value(field: Any, value: Any) -> Any:
    inner = field.message_type
    if inner is not None and inner.GetOptions().map_entry:
        each = inner.fields_by_name["value"]
        return {str(key): _json_single(each, member) for key, member in value.items()}
    return [_json_single(field, each) for each in value] if _is_repeated(field) else _json_single(field, value)


def _json_single(field: Any, value: Any) -> Any:
    if field.message_type is not None:
        return as_json(value)
    return value if field.enum_type is None else _enum_name(field, value)


def _enum_name(field: Any, number: int) -> str:
    found = field.enum_type.values_by_number.get(number)  # none for a number that the schema does not know
    return str(number) if found is None else str(found.name)


def _is_repeated(field: Any) -> bool:
    # `is_repeated` came with protobuf 6.31, which deprecates `label`.
    return bool(field.is_repeated if hasattr(field, "is_repeated") else field.label == field.LABEL_REPEATED)


@functools.cache
def load_schema() -> tuple[ModuleType, ModuleType]:
    """Return the schema's module and protobuf's `text_format`; raises `InvalidArtifactError` without tritonclient."""
    spec = importlib.util.find_spec("tritonclient")
    try:
        from google.protobuf import text_format

        if spec is None or not spec.submodule_search_locations:
            raise ImportError("tritonclient")
        file = Path(spec.submodule_search_locations[0]) / "grpc" / "model_config_pb2.py"
        loader = importlib.util.spec_from_file_location("tritonclient_model_config_pb2", file)
        if loader is None or loader.loader is None:
            raise ImportError(str(file))
        schema = importlib.util.module_from_spec(loader)
        loader.loader.exec_module(schema)
    except (ImportError, OSError) as error:
        raise InvalidArtifactError(
            "config.pbtxt is read with Triton's own schema, which is not installed: "
            "`pip install wharf-serving[triton]` or write a wharf.toml."
        ) from error
    return schema, text_format
