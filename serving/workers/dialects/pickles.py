"""Python objects in files: joblib, pickle and skops.

Unpickling runs the code that the file names, which is why it happens here, in the owner's own worker. Knows what goes
wrong with such files in the wild (a module that is not installed, a class of the training script, another version of
scikit-learn) and says what to do; knows nothing of what is inside. `sklearn` and `trees` call it.
"""

from __future__ import annotations

import pickle
import sys
import warnings
from typing import Any

from serving.workers.dialects.rows import missing
from serving.workers.handler import HandlerError, Launch


def unpickle(launch: Launch, path: str) -> Any:
    """Return what the file at `path` holds; raises `HandlerError` that says what is missing, gone or broken.

    Prints one line where another version of scikit-learn saved it.
    """
    read = _read_skops if path.endswith(".skops") else _read_pickle
    try:
        with warnings.catch_warnings():
            _say_versions_once(launch)
            return read(launch, path)
    except (ImportError, AttributeError) as fault:
        raise _unresolved(launch, fault) from None
    except (HandlerError, MemoryError):
        raise
    except Exception as fault:  # bytes that are no pickle raise just about anything
        raise HandlerError(
            f"Model file '{launch.file}' does not load ({type(fault).__name__}: {fault}): save it again with "
            "joblib.dump(model, 'model.joblib'), under the versions of Python and of the libraries here."
        ) from None


def _unresolved(launch: Launch, fault: ImportError | AttributeError) -> HandlerError:
    module = fault.name or "" if isinstance(fault, ModuleNotFoundError) else ""
    if module and sys.modules.get(module.partition(".")[0]) is None:
        return missing(launch, module)
    return HandlerError(
        f"Model file '{launch.file}' needs something that is not there ({fault}): what its own script defined belongs "
        "into a module beside the model; for a library's, pin the version that saved it in requirements.txt."
    )


def _read_pickle(_launch: Launch, path: str) -> Any:
    try:
        import joblib  # reads plain pickles too, and many a .pkl was written by it
    except ImportError:
        with open(path, "rb") as file:  # noqa: PTH123
            return pickle.load(file)  # noqa: S301
    return joblib.load(path)


def _read_skops(launch: Launch, path: str) -> Any:
    import skops.io

    named = [name.strip() for name in launch.options.get("trusted", "").split(",") if name.strip()]
    unknown = sorted(set(skops.io.get_untrusted_types(file=path)) - set(named))
    if unknown:
        raise HandlerError(
            f"Model file '{launch.file}' holds types that skops does not trust: {', '.join(unknown)}. "
            "Name those that you do in the option trusted, with commas between."
        )
    return skops.io.load(path, trusted=named)


def _say_versions_once(launch: Launch) -> None:
    """Print one line for all of scikit-learn's warnings of another version; other warnings go their way.

    Call it within `catch_warnings`, which undoes it.
    """
    told: set[str] = set()
    show = warnings.showwarning

    def once(message: Any, category: type[Warning], *place: Any, **more: Any) -> None:
        if category.__name__ != "InconsistentVersionWarning":
            show(message, category, *place, **more)
        elif not told:
            told.add(category.__name__)
            print(_version_advice(launch, message), file=sys.stderr, flush=True)  # noqa: T201  the model's log

    warnings.showwarning = once
    try:
        from sklearn.exceptions import InconsistentVersionWarning  # scikit-learn 1.3 and later
    except ImportError:
        return
    warnings.simplefilter("always", InconsistentVersionWarning)


def _version_advice(launch: Launch, warning: Any) -> str:
    saved, here = warning.original_sklearn_version, warning.current_sklearn_version
    return (
        f"Model '{launch.name}' was saved by scikit-learn {saved} and {here} runs it here, which may fail or answer "
        f"differently: pin scikit-learn=={saved} in requirements.txt and set WHARF_INSTALL_REQUIREMENTS=1, or train "
        f"it again with {here}."
    )
