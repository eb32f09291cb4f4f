"""The whole front over a real manager: the hot app, Flask behind it, and everything that they report to."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from serving.cores import CoreBudget
from serving.http.admin import Guard, make_admin
from serving.http.admission import Admission, Gate
from serving.http.app import App
from serving.http.bodies import Bodies
from serving.http.replies import RequestIds
from serving.http.sagemaker import InvokeSettings, SageMakerRoutes
from serving.http.tfs import TfsRoutes
from serving.http.v2 import V2Routes
from serving.inference import Inference
from serving.logs import AccessLog
from tests.unit.house import House
from tests.unit.http.wsgi import Answer, ask, call, environ_of

BODY = b'{"instances": [[1.0]]}'


class Front:
    """An app to call, with what is behind it in reach."""

    def __init__(
        self,
        folder: Path,
        *,
        token: str | None = None,
        is_platform: bool = False,
        default_model: Callable[[], str] = lambda: "quick",
        max_in_flight: int = 8,
        max_body_bytes: int = 1000,
        accept: str = "application/json",
        own_name: Callable[[str], str | None] = lambda name: name,
    ) -> None:
        self.house = House(folder, is_platform=is_platform)
        self.house.make("quick")
        self.house.metrics.gauges = self.house.manager.gauges
        self.admission = Admission(max_in_flight, max_body_bytes, 2 * max_body_bytes)
        self.cores = CoreBudget(2)
        self.is_healthy = True
        self.lines = folder / "access.log"
        fd = os.open(self.lines, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        guard, request_id = Guard(token), RequestIds()
        self.inference = Inference(self.house.manager, self.house.catalog, self.cores, self.house.statistics, 0.2)
        bodies = Bodies(self.admission)

        def named(name: str) -> str:
            return own_name(name) or name

        routes = SageMakerRoutes(
            self.house.manager, self.cores, bodies, self.inference, InvokeSettings(0.2, accept, named), default_model
        )
        admin = make_admin(self.house.manager, self.house.metrics, guard, lambda: [{"modelName": "quick"}], request_id)
        self.gate = Gate(4)
        self.app = App(
            *(routes, admin, self.gate, guard, request_id, self.house.metrics, AccessLog("all", "json", fd)),
            lambda: "" if self.is_healthy else "The model is not loaded (yet): see the log.",
            {
                "/v2": V2Routes(self.inference, bodies, self.gate, guard, lambda: self.is_healthy),
                "/v1": TfsRoutes(self.inference, bodies, self.gate, named),
            },
        )

    def ask(self, method: str, target: str, body: bytes = b"", **headers: str) -> Answer:
        """Send one request."""
        return ask(self.app, method, target, body, **headers)

    def invoke(self, name: str = "quick", /, **headers: str) -> Answer:
        """POST /models/{name}/invoke."""
        return call(self.app, environ_of("POST", f"/models/{name}/invoke", BODY, **headers))

    def log(self) -> str:
        """Every access line until now."""
        self.app.flush()
        return self.lines.read_text()

    def counter(self, name: str) -> int:
        """A counter's value."""
        return self.house.metrics.value(name)


def front_of(folder: Path, **options: Any) -> Front:
    """A front in a folder of its own."""
    folder.mkdir(exist_ok=True)
    return Front(folder, **options)
