"""The one model of a single-model endpoint, called as the folder in its archive: as SageMaker's container has it."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.conftest import StartServer
from tests.waiting import until

ROWS = {"instances": [1.0, 2.0]}


def test_the_folder_in_the_archive_names_the_model(
    start_server: StartServer, saved_models: Path, tmp_path: Path
) -> None:
    """In the custom attributes and below /v1; without a name it is the default one."""
    shutil.copytree(saved_models / "half_plus_two/1", tmp_path / "opt-ml/model/half_plus_two/1")
    server = start_server()
    until(lambda: server.client.get("/ping").status_code == 200, timeout_s=90)
    headers = {"X-Amzn-SageMaker-Custom-Attributes": "tfs-model-name=half_plus_two"}

    for found in (
        server.client.post("/invocations", json=ROWS),
        server.client.post("/invocations", json=ROWS, headers=headers),
        server.client.post("/v1/models/half_plus_two:predict", json=ROWS),
        server.client.post("/v1/models/half_plus_two/versions/1:predict", json=ROWS),
        server.client.post("/v1/models/model:predict", json=ROWS),
    ):
        assert (found.status_code, found.json()) == (200, {"predictions": [2.5, 3.0]})
    status = server.client.get("/v1/models/half_plus_two").json()["model_version_status"]
    assert [each["state"] for each in status] == ["AVAILABLE"]
    other = {"X-Amzn-SageMaker-Custom-Attributes": "tfs-model-name=other"}
    assert server.client.post("/invocations", json=ROWS, headers=other).status_code == 404
