"""What serving scripts take from the older toolkit: content_types, encoders, env, errors, transformer, worker.

It knows the half of the toolkit that answers requests; that which trains (entry_point, mpi, runner, trainer) is not
here, and `modules`, which scripts import beside the others and use in training alone, is empty.
Standard library alone at import, CPython 3.9 on: numpy and the dialect's defaults are imported where a call needs them.
"""

from . import content_types, encoders, env, errors, modules, transformer, worker

__all__ = ["content_types", "encoders", "env", "errors", "modules", "transformer", "worker"]
