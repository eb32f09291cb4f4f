"""A DJL handler, written as people write them."""

from djl_python import Input, Output


def handle(inputs: Input) -> Output | None:
    if inputs.is_empty():
        return None
    return Output().add_as_json({"djl": inputs.get_as_json()})
