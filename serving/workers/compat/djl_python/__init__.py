"""The import name `djl_python`, which people's DJL `model.py` files expect: our own, of the same interface.

It knows the values that a handler reads and writes (`Input`, `Output`), their helpers and decorators, and nothing of
processes, channels or HTTP. It is on a worker's path only, never on the server's; `workers.dialects.djl` puts it there.
Standard library alone at import, CPython 3.9 on: numpy, PIL and transformers are imported where a call needs them.
"""

from .inputs import Input
from .outputs import Output
from .pair_list import PairList

__all__ = ["Input", "Output", "PairList"]
