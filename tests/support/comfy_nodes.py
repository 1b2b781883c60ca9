"""Our custom node folder, loaded as ComfyUI loads one: by its path, under a name of its own."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "infra" / "comfyui"


def load_nodes(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module; `comfy` is whatever can be imported by that name."""
    spec = importlib.util.spec_from_file_location(
        "flexip_nodes", FOLDER / "__init__.py", submodule_search_locations=[str(FOLDER)]
    )
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    for name in ("", ".nodes", ".layers"):
        monkeypatch.delitem(sys.modules, f"flexip_nodes{name}", raising=False)
    monkeypatch.setitem(sys.modules, "flexip_nodes", module)
    spec.loader.exec_module(module)
    return module
