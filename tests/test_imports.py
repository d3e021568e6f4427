"""The import rule: modules point one way, along the chain that DESIGN names, and the command line starts light."""

import ast
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "kitune"
CHAIN = (
    ("config", "errors", "metrics"),
    ("data",),
    ("model", "tasks"),
    ("evaluate",),
    ("training",),
    ("run_folder",),
    ("resume",),
    ("finetune", "predict"),
    ("cli",),
)
LEVEL = {name: level for level, names in enumerate(CHAIN) for name in names}


def imports_of(path: Path) -> set[str]:
    """The parts of kitune that a module imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("kitune."):
            found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("kitune.")}
    return found


def test_imports_point_one_way() -> None:
    wrong = []
    for path in sorted(PACKAGE.rglob("*.py")):
        part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if part in {"__init__", "__main__"}:
            continue
        wrong += [f"{path.name} -> {other}" for other in imports_of(path) if LEVEL[other] > LEVEL[part]]
    assert not wrong


def test_every_module_has_a_place_in_the_chain() -> None:
    parts = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in PACKAGE.rglob("*.py")}
    assert parts - {"__init__", "__main__"} == set(LEVEL)


def test_help_imports_neither_torch_nor_transformers_nor_pydantic() -> None:
    script = "import sys, kitune.cli; print([m for m in ('torch', 'transformers', 'pydantic', 'pyarrow') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
