"""Write docs/settings.md and docs/lifecycle.md from the sources; with --check say which differ, exit status 1."""

from __future__ import annotations

import ast
import sys
from dataclasses import fields
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from serving.ledger import format_bytes  # noqa: E402  the source tree is put on the path first
from serving.lifecycle import diagram  # noqa: E402
from serving.setting_values import Share  # noqa: E402
from serving.settings import Settings  # noqa: E402

GENERATED = "<!-- Written by scripts/docs.py: change the source and run it again. -->\n"
SETTINGS = """# Settings

Each is an environment variable; an empty one counts as unset, and of several in a row the first that is set counts. A
value that cannot be read stops the start; a `WHARF_*` or `SAGEMAKER_*` name that nothing reads is warned about.
Flags of `wharf serve` win. The other verbs read `WHARF_URL` (`http://127.0.0.1:8080`) and `WHARF_ADMIN_TOKEN`.

| variable | default | wanted | what it is |
|---|---|---|---|
"""
LIFECYCLE = """# The life of a model

Drawn from the table in `serving/lifecycle.py`; a move that is not in it is an error. A model that is UNAVAILABLE is not
in memory and takes none of the budget. [architecture.md](architecture.md) walks a load and an unload.
"""


def sentences() -> dict[str, str]:  # the text under each field
    tree = ast.parse((ROOT / "serving/settings.py").read_text())
    body = next(node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Settings")
    pairs = [(one, two) for one, two in pairwise(body) if isinstance(one, ast.AnnAssign)]
    return {ast.unparse(one.target): " ".join(ast.literal_eval(ast.unparse(two)).split()) for one, two in pairs}


def shown(name: str, value: object) -> str:
    if value is None:
        return "unset"
    if isinstance(value, Share):
        return f"`{value.percent:g}%`"
    if name.endswith("_bytes") and isinstance(value, int):
        return f"`{format_bytes(value).replace('.0 ', '')}`"
    text = ",".join(value) if isinstance(value, tuple) else f"{value:g}" if isinstance(value, float) else str(value)
    return f"`{text.lower() if isinstance(value, bool) else text}`"


def settings() -> str:
    texts, rows = sentences(), []
    for each in fields(Settings):
        names = ", ".join(f"`{name}`" for name, _ in each.metadata["sources"])
        text = texts[each.name].replace("*/*", "`*/*`").replace("|", "\\|")
        rows.append(f"| {names} | {shown(each.name, each.default)} | {each.metadata['wanted']} | {text} |\n")
    return GENERATED + SETTINGS + "".join(rows)


def pages() -> dict[Path, str]:
    lifecycle = f"{GENERATED}{LIFECYCLE}\n```mermaid\n{diagram()}```\n"
    return {ROOT / "docs/settings.md": settings(), ROOT / "docs/lifecycle.md": lifecycle}


def main() -> int:
    is_check = "--check" in sys.argv[1:]
    stale = {path: text for path, text in pages().items() if not path.is_file() or path.read_text() != text}
    for path, text in stale.items():
        if not is_check:
            path.write_text(text)
        print(path.relative_to(ROOT), "differs from its source: run scripts/docs.py" if is_check else "written")
    return 1 if stale and is_check else 0


if __name__ == "__main__":
    sys.exit(main())
