"""Digits: which digit an 8x8 grey image shows; a random forest through ONNX, a small network through TorchScript."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def split() -> tuple[Any, Any, Any, Any]:
    """Return training rows, held-out rows [540, 64] of grey values 0 to 16, training and held-out labels 0 to 9."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    rows, labels = load_digits(return_X_y=True)
    return tuple(train_test_split(rows, labels, test_size=0.3, random_state=0, stratify=labels))


def build_onnx(folder: Path) -> None:
    """Write `digits_onnx`: a forest of 100 trees. 1 MB."""
    from onnx_formats import save_sklearn
    from sklearn.ensemble import RandomForestClassifier

    rows, _, labels, _ = split()
    save_sklearn(RandomForestClassifier(n_estimators=100, random_state=0).fit(rows, labels), 64, folder)


def build_torchscript(folder: Path) -> None:
    """Write `digits_torchscript`: one hidden layer of 64, trained in about a second. 30 KB."""
    import torch
    from torch_formats import save_torchscript

    class Digits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.hidden, self.scores = torch.nn.Linear(64, 64), torch.nn.Linear(64, 10)

        def forward(self, x: Any) -> Any:
            return self.scores(self.hidden(x).relu())

    torch.manual_seed(0)
    network = Digits()
    rows, _, labels, _ = split()
    x, y = torch.tensor(rows, dtype=torch.float32), torch.tensor(labels)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(200):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(x), y).backward()
        optimizer.step()
    save_torchscript(network.eval(), {"x": x[:2]}, {"x": (0,)}, ("scores",), folder)
