"""The import rule: modules point one way, along the chain that DESIGN names, and the command line starts light."""

import ast
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parents[1] / "kitune"
CHAIN = (
    ("config", "errors", "findings", "metrics", "notebook"),
    ("data",),
    ("model", "tasks"),
    ("evaluate",),
    ("training",),
    ("run_folder",),
    ("resume", "inference", "known"),
    ("glue", "rivals"),
    ("facts", "predict", "prepare"),
    ("answers", "diagnosis"),
    ("finetune",),
    ("estimators", "repeat"),
    ("show",),
    ("cli",),
)
LEVEL = {name: level for level, names in enumerate(CHAIN) for name in names}


def imports_of(path: Path) -> set[str]:
    """The parts of kitune that a module imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            raise AssertionError(f"{path.name}: a relative import")
        if isinstance(node, ast.ImportFrom) and node.module == "kitune":
            found |= {alias.name for alias in node.names if alias.name in LEVEL}
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("kitune."):
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


def test_a_training_takes_its_first_step_without_what_only_metrics_and_tables_need(
    tmp_path: Path, tiny_model: Path, rows: Callable[..., list[dict[str, Any]]]
) -> None:
    path = tmp_path / "rows.csv"
    lines = [f"{row['text']},{row['label']}\n" for row in rows("single-label", 40)]
    path.write_text("text,label\n" + "".join(lines), encoding="utf-8")
    script = f"""
import os, sys
from kitune.cli import main
from kitune.training.journal import Journal

def stop(*_, **__):  # the first thing after the first update
    print([name for name in ("sklearn", "scipy", "datasets", "matplotlib", "pandas") if name in sys.modules], flush=True)
    # Who does use the one function that transformers wants of scipy gets it.
    from transformers.loss.loss_for_object_detection import linear_sum_assignment
    print(linear_sum_assignment([[1, 0], [0, 1]])[1].tolist(), "scipy.optimize" in sys.modules, flush=True)
    os._exit(0)

Journal.step = stop
main(["train", {str(path)!r}, "--model", {str(tiny_model)!r}, "--out", {str(tmp_path / "run")!r}])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]", "[1, 0] True"]
