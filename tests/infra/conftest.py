"""The manifests of each overlay, as Kustomize makes them."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
OVERLAYS = ("local", "gpu-small", "gpu-large")


@pytest.fixture(scope="session", params=OVERLAYS)
def overlay(request) -> list[dict[str, Any]]:
    """The documents of one overlay; skips where neither kustomize nor kubectl is installed."""
    tools = {"kustomize": ["kustomize", "build"], "kubectl": ["kubectl", "kustomize"]}
    command = next((words for name, words in tools.items() if shutil.which(name)), None)
    if command is None:
        pytest.skip("neither kustomize nor kubectl is installed")
    folder = ROOT / "infra" / "overlays" / request.param
    made = subprocess.run([*command, str(folder)], capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    return list(yaml.load_all(made.stdout, yaml.CSafeLoader))
