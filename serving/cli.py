"""The `wharf` command: start the server, or talk to a running one.

Thin: parse, call, print. Everything heavy is imported by the verb that needs it, so that `--help` answers at once. The
verbs that talk go through HTTP like any other client; WHARF_URL says where.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from serving.repository.handler_spec import HandlerSpec

DEFAULT_URL = "http://127.0.0.1:8080"
# As long as the platform waits for a load.
_TIMEOUT_S = 360


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; return the exit status."""
    arguments = _parser().parse_args(argv)
    try:
        return int(arguments.run(arguments))
    except urllib.error.HTTPError as error:
        return _complain(f"{error.code}: {_error_text(error.read())}")
    except urllib.error.URLError as error:
        return _complain(
            f"No server at {arguments.url} ({error.reason}): start one with `wharf serve` or set WHARF_URL."
        )
    except (ConnectionError, TimeoutError, http.client.HTTPException, json.JSONDecodeError) as error:
        return _complain(f"{arguments.url} gave no answer that can be read ({type(error).__name__}): see its log.")
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="wharf", description="Serve many models from one process, behind the SageMaker multi-model contract."
    )
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    serve = verbs.add_parser("serve", help="start the server (settings: WHARF_* variables, see docs/settings.md)")
    serve.add_argument("--model-root", help="the model repository (WHARF_MODEL_ROOT)")
    serve.add_argument("--host", help="address to listen on (WHARF_HOST)")
    serve.add_argument("--port", help="port to listen on, 0 for a free one (WHARF_PORT)")
    serve.add_argument("--memory-budget", help="memory for models: 4GiB, 80%% (WHARF_MEMORY_BUDGET)")
    serve.set_defaults(run=_serve)
    validate = verbs.add_parser("validate", help="say what a folder would be served as, or precisely why not")
    validate.add_argument("path", type=Path, metavar="DIR", help="a model's folder, file or archive")
    validate.set_defaults(run=_validate)
    config = verbs.add_parser("config", help="print a config.pbtxt as JSON, or JSON (*.json) as a config.pbtxt")
    config.add_argument("path", type=Path, metavar="FILE", help="config.pbtxt, or a file of JSON that ends in .json")
    config.set_defaults(run=_config)
    env = verbs.add_parser("env", help="print what this CPU has, what is set for it and what the libraries really use")
    env.add_argument("--json", action="store_true", help="as one JSON document")
    env.set_defaults(run=_env)
    for name, text in (("models", "list models"), ("load", "load a model"), ("unload", "unload a model"),
                       ("invoke", "send a request to a model")):  # fmt: skip
        verb = verbs.add_parser(name, help=text)
        verb.add_argument("--url", default=os.environ.get("WHARF_URL", DEFAULT_URL), help="the server (WHARF_URL)")
        verb.set_defaults(run=globals()[f"_{name}"])
        if name != "models":
            verb.add_argument("name", help="the model's name")
        if name == "models":
            verb.add_argument("--available", action="store_true", help="list the repository, loaded or not")
        if name == "load":
            verb.add_argument(
                "artifact",
                nargs="?",
                help="absolute path below the model root; by default the repository's model of that name",
            )
        if name == "invoke":
            verb.add_argument("--data", default="-", help="the body: text, @FILE, or - for standard input (default)")
            verb.add_argument("--content-type", default="application/json")
            verb.add_argument("--accept", default="application/json")
    return parser


def _serve(arguments: argparse.Namespace) -> int:
    from serving.errors import ServingError
    from serving.logs import announce
    from serving.master import serve
    from serving.settings import SettingError, Settings, unknown_settings

    flags = {
        "WHARF_MODEL_ROOT": arguments.model_root,
        "WHARF_HOST": arguments.host,
        "WHARF_PORT": arguments.port,
        "WHARF_MEMORY_BUDGET": arguments.memory_budget,
    }
    env = dict(os.environ) | {name: value for name, value in flags.items() if value is not None}
    if arguments.port is not None:  # the flag wins over the platform's name, and a complaint names ours
        env.pop("SAGEMAKER_BIND_TO_PORT", None)
    settings, complaint = None, ""
    try:
        settings = Settings.from_env(env)
    except SettingError as error:
        complaint = error.message
    for sentence in unknown_settings(env):
        announce(sentence, settings.log_format if settings else "text")
    if settings is None:
        return _complain(complaint)
    try:
        return serve(settings)
    except ServingError as error:
        return _complain(error.message)


def _validate(arguments: argparse.Namespace) -> int:
    from serving.errors import ServingError
    from serving.repository.explained import explained
    from serving.repository.source import validate
    from serving.repository.surroundings import Surroundings
    from serving.settings import Settings

    try:
        settings = Settings.from_env(os.environ)
        # The real folder has a name even for '.', and a parent that it lies in even behind a link.
        surroundings = Surroundings(os.environ, settings.device, settings.triton_backends)
        spec = validate(arguments.path.resolve(), surroundings)
    except ServingError as error:
        return _complain(error.message)
    print(
        f"{arguments.path}: served {f'in workers, by {spec.handler.dialect}' if spec.handler else f'as {spec.format}'}"
    )
    print(f"  file     {spec.file.name} ({spec.bytes} bytes)")
    for kind, specs in (("inputs", spec.inputs), ("outputs", spec.outputs)):
        shown = ", ".join(f"{each.name} {each.dtype or 'any type'} {_shown_dims(each.dims)}" for each in specs or ())
        print(f"  {kind:8} {shown or 'found out from the model when it loads'}")
    if spec.handler:
        _print_handler(spec.handler)
    for word, sentence in explained(spec):
        print(f"  {word:8} {sentence}")
    for warning in spec.warnings:
        print(f"  warning  {warning}")
    print(f"  decided by {', '.join(spec.sources)}")
    return 0


def _config(arguments: argparse.Namespace) -> int:
    from serving.errors import ServingError
    from serving.repository.triton_schema import converted

    try:
        print(converted(arguments.path), end="")
    except ServingError as error:
        return _complain(error.message)
    return 0


def _env(arguments: argparse.Namespace) -> int:
    from serving.diagnosis import diagnose
    from serving.settings import SettingError, Settings

    try:
        found = diagnose(Settings.from_env(os.environ))
    except SettingError as error:
        return _complain(error.message)
    print(json.dumps(found.document(), indent=2) if arguments.json else found.text())
    return 0


def _shown_dims(dims: tuple[int, ...] | None) -> str:
    return "any shape" if dims is None else str(list(dims))


def _print_handler(handler: HandlerSpec) -> None:
    def shown(path: Path) -> str:
        return os.path.relpath(path, handler.folder)

    print(f"  dialect  {handler.dialect}")
    for key, path in (("script", handler.file), ("requires", handler.requirements), ("python", handler.python)):
        if path is not None:
            print(f"  {key:8} {shown(path)}")
    print(f"  paths    {', '.join(map(shown, handler.paths)) or 'none'}")
    for key, table in (("options", handler.options), ("environ", handler.environ)):
        if table:
            print(f"  {key:8} {', '.join(sorted(table))}")


def _models(arguments: argparse.Namespace) -> int:
    if arguments.available:
        for model in _ask(arguments, "GET", "/repository")["models"]:
            print(f"{model['modelName']}\t{'loaded' if model['loaded'] else ''}".rstrip())
        return 0
    token = ""
    while True:
        page = _ask(arguments, "GET", f"/models?next_page_token={urllib.parse.quote(token)}")
        for model in page["models"]:
            print(f"{model['modelName']}\t{model['modelUrl']}")
        token = page.get("nextPageToken", "")
        if not token:
            return 0


def _load(arguments: argparse.Namespace) -> int:
    url = arguments.artifact or _url_of(arguments)
    body = {"model_name": arguments.name, "url": url}
    print(_ask(arguments, "POST", "/models", json.dumps(body).encode())["status"])
    return 0


def _url_of(arguments: argparse.Namespace) -> str:
    for model in _ask(arguments, "GET", "/repository")["models"]:
        if model["modelName"] == arguments.name:
            return str(model["modelUrl"])
    raise SystemExit(_complain(f"No model '{arguments.name}' in the repository: see `wharf models --available`."))


def _unload(arguments: argparse.Namespace) -> int:
    print(_ask(arguments, "DELETE", f"/models/{urllib.parse.quote(arguments.name)}")["status"])
    return 0


def _invoke(arguments: argparse.Namespace) -> int:
    if arguments.data == "-":
        body = sys.stdin.buffer.read()
    elif arguments.data.startswith("@"):
        try:
            body = Path(arguments.data[1:]).read_bytes()
        except OSError as error:
            return _complain(f"{arguments.data[1:]} cannot be read ({error.strerror}): give --data @FILE.")
    else:
        body = arguments.data.encode()
    headers = {"Content-Type": arguments.content_type, "Accept": arguments.accept}
    answer = _send(arguments, "POST", f"/models/{urllib.parse.quote(arguments.name)}/invoke", body, headers)
    sys.stdout.buffer.write(answer)
    if sys.stdout.isatty():
        print()
    return 0


def _ask(arguments: argparse.Namespace, method: str, path: str, body: bytes | None = None) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(_send(arguments, method, path, body, {"Content-Type": "application/json"}))
    return answer


def _send(arguments: argparse.Namespace, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> bytes:
    token = os.environ.get("WHARF_ADMIN_TOKEN")
    if token:
        headers["Authorization"] = f"Bearer {token}"
    if not arguments.url.startswith(("http://", "https://")):
        raise SystemExit(_complain(f"'{arguments.url}' is no server's url: give one like {DEFAULT_URL} (WHARF_URL)."))
    request = urllib.request.Request(arguments.url.rstrip("/") + path, body, headers, method=method)  # noqa: S310
    with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response:  # noqa: S310  the user's own url
        return bytes(response.read())


def _error_text(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        return body.decode(errors="replace")


def _complain(message: str) -> int:
    print(f"wharf: {message}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
