"""Two sides of a comparison in turns, each run in a process of its own; medians, and one JSON line a comparison."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from machine import PROJECT, circumstances

Line = dict[str, Any]
RESULTS = PROJECT / "bench" / "results"


def alternate(sides: Mapping[str, Callable[[], Line]], pairs: int) -> list[dict[str, Line]]:
    """Each side's figures in every pair, run A B A B: what the neighbours do to the machine meets both."""
    done: list[dict[str, Line]] = []
    for number in range(pairs):
        done.append({})
        for name, run in sides.items():
            done[-1][name] = run()
            print(f"pair {number + 1} of {pairs}, {name}: {brief(done[-1][name])}", file=sys.stderr, flush=True)
    return done


def brief(figures: Line) -> str:
    """The plain numbers of a side's figures, for the eye of who waits."""
    return ", ".join(f"{name} {value:.4g}" for name, value in figures.items() if isinstance(value, float))


def child(script: str, told: Line, *, started_in: str = "started") -> Line:
    """The JSON line that `bench/<script>` prints last when it is given `told` as JSON on a fresh interpreter.

    It is told when it was started, so that it can count its own imports. What else it prints goes to a log that is
    shown only if it fails.
    """
    words = [sys.executable, str(PROJECT / "bench" / script), json.dumps({**told, started_in: time.time()})]
    busy_before = neighbours_cpu_s()
    began = time.perf_counter()
    # Fork and tokenizers' threads do not go together; the warning about it is no news here.
    done = subprocess.run(
        words, capture_output=True, text=True, check=False, env={**os.environ, "TOKENIZERS_PARALLELISM": "true"}
    )
    if done.returncode:
        raise SystemExit(f"{script} {json.dumps(told)} failed:\n{done.stdout[-3000:]}{done.stderr[-6000:]}")
    line: Line = json.loads(done.stdout.splitlines()[-1])
    return {**line, "neighbours": (neighbours_cpu_s() - busy_before) / (time.perf_counter() - began)}


def neighbours_cpu_s() -> float:
    """CPU seconds that all other programs of this machine have used so far, up to a constant; 0 off Linux.

    What they take while a side runs is told beside its figures: two threads that share a core with somebody run at a
    tenth of their speed, not at half, because they wait for each other at every operation.
    """
    stat = Path("/proc/stat")
    if not stat.exists():
        return 0.0
    user, nice, system, _, _, irq, soft_irq, steal = (int(word) for word in stat.read_text().split()[1:9])
    own = sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return (user + nice + system + irq + soft_irq + steal) / os.sysconf("SC_CLK_TCK") - own


def warn_of_neighbours(pairs: Sequence[Mapping[str, Line]]) -> None:
    """Say so, where others used more than a tenth of a core: the figures are then worth little."""
    most = max(figures["neighbours"] for pair in pairs for figures in pair.values())
    if most > 0.1:
        print(f"DISTURBED: other programs used up to {most:.1f} cores meanwhile\n")


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, least and most."""
    return {"median": round_3(median(values)), "least": round_3(min(values)), "most": round_3(max(values))}


def round_3(value: float) -> float:
    return float(f"{value:.4g}")


def shown(values: Sequence[float], digits: int = 1) -> str:
    """`12.3 (11.9-13.0)`; one value stands alone."""
    middle = f"{median(values):,.{digits}f}"
    return middle if len(values) == 1 else f"{middle} ({min(values):,.{digits}f}-{max(values):,.{digits}f})"


def ratios(pairs: Sequence[Mapping[str, Line]], name: str, *, over: str, under: str) -> list[float]:
    """Figure `name` of the side `over` divided by that of `under`, pair by pair."""
    return [pair[over][name] / pair[under][name] for pair in pairs]


def print_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns as wide as their widest cell; the first one is flush left."""
    table = [heads, *rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(heads))]
    for row in table:
        cells = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        print("  ".join([row[0].ljust(widths[0]), *cells]))


def keep(results: Path, line: Line) -> None:
    """Append `line`, with commit, machine and versions, to a results file, and print it last."""
    whole = {**line, "command": " ".join(["python", f"bench/{Path(sys.argv[0]).name}", *sys.argv[1:]])}
    text = json.dumps({**whole, **circumstances()})
    results.parent.mkdir(parents=True, exist_ok=True)
    with results.open("a", encoding="utf-8") as file:
        file.write(text + "\n")
    print(text)


def refuse_smoke(results: Path, *, smoke: bool) -> None:
    """A run too short to mean anything stays out of the project's results."""
    if smoke and results.resolve().is_relative_to(PROJECT):
        raise SystemExit("smoke runs stay out of the project\n  fix: name --results in another folder, such as /tmp")
