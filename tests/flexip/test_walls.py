"""flexip runs on a GPU machine that has no Ray, no MLflow and no web framework."""

import subprocess
import sys

PROGRAM = """
import importlib, pkgutil, sys
for name in ("ray", "mlflow", "fastapi", "pydantic_settings", "pyarrow.dataset"):
    sys.modules[name] = None  # importing it raises ImportError
import flexip
modules = [m.name for m in pkgutil.walk_packages(flexip.__path__, "flexip.")]
for module in modules:
    importlib.import_module(module)
print(len(modules))
"""


def test_every_module_of_flexip_imports_without_a_launcher():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=2800)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) >= 12
