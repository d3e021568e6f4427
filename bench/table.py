"""The table of the quality benchmark, from its results file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

Line = dict[str, Any]
Results = dict[tuple[str, str, int], Line]


def read_results(path: Path) -> Results:
    """The lines of a results file by (set, competitor, seed); of equal keys the last."""
    texts = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    lines = [json.loads(text) for text in texts if text.strip()]
    return {(line["set"], line["who"], line["seed"]): line for line in lines}


def decided_path(results: Path, name: str, who: str, seed: int) -> Path:
    """Where a run's decisions over the test rows are kept, beside the results file."""
    return results.parent / "decided" / f"{name}-{who}-{seed}.npz"


def table(results: Results, *, sets: Sequence[str], who: Sequence[str]) -> str:
    """A Markdown table of mean headline metrics x 100, and last one JSON line with the same figures.

    The difference is kitune's minus the better Trainer's, each pair over the seeds that both have (intervals: `not_worse.py`).
    """
    present = [name for name in sets if any(key[0] == name for key in results)]
    columns = [name for name in who if any(key[1] == name for key in results)]
    columns += sorted({key[1] for key in results} - set(columns))  # rates that nobody has asked for now
    lines = [
        "| set | metric | seeds | " + " | ".join(columns) + " | kitune - better Trainer |",
        "|---|---|---" + "|---" * len(columns) + "|---|",
    ]
    figures: dict[str, dict[str, float]] = {}
    differences: dict[str, float] = {}
    for name in present:
        own = {key: line for key, line in results.items() if key[0] == name}
        headline = next(iter(own.values()))["headline"]
        runs = {column: by_seed(own, column) for column in columns}
        scores = {column: 100 * mean(runs[column].values()) for column in columns if runs[column]}
        best = max(scores.values())
        most = max(len(of_seed) for of_seed in runs.values())
        cells = [cell(scores.get(column), best=best, num_runs=len(runs[column]), most=most) for column in columns]
        gap = difference(runs)
        lines.append(
            f"| {name} | {headline} | {most} | {' | '.join(cells)} | {'-' if gap is None else f'{gap:+.2f}'} |"
        )
        figures[name] = {column: round(score, 2) for column, score in scores.items()}
        if gap is not None:
            differences[name] = round(gap, 2)
    record = {"benchmark": "quality", "scores": figures, "differences": differences}
    return "\n".join([*lines, "", json.dumps(record)])


def by_seed(results: Results, who: str) -> dict[int, float]:
    return {seed: line["score"] for (_, name, seed), line in sorted(results.items()) if name == who}


def cell(score: float | None, *, best: float, num_runs: int, most: int) -> str:
    """Best in bold; a mean over fewer runs than the fullest column of its row says over how many."""
    if score is None:
        return "-"
    text = f"**{score:.2f}**" if round(score, 2) == round(best, 2) else f"{score:.2f}"
    return text if num_runs == most else f"{text} ({num_runs})"


def difference(runs: dict[str, dict[int, float]]) -> float | None:
    """Points that kitune is above the better Trainer; None where no seed has both."""
    kitune = runs.get("kitune", {})
    gaps = []
    for who, scores in runs.items():
        shared = kitune.keys() & scores.keys()
        if who.startswith("trainer") and shared:
            gaps.append(100 * (mean(kitune[seed] for seed in shared) - mean(scores[seed] for seed in shared)))
    return min(gaps, default=None)
