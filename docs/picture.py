"""Makes docs/terminal.svg: what a training and its evaluation on the example tickets print, as it was printed.

python docs/picture.py
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).parents[1]
WIDTH = 96
# Of the evaluation the beginning and the end fit into a picture.
FIRST_LINES, LAST_LINES = 12, 9
COMMANDS = (
    "kitune train examples/tickets.csv --text text --label intent --group customer --out {run}",
    "kitune evaluate {run} examples/tickets_test.csv",
)


def main() -> None:
    console = Console(record=True, width=WIDTH, file=open(os.devnull, "w"), force_terminal=True)  # noqa: SIM115
    with tempfile.TemporaryDirectory() as place:
        for number, words in enumerate(COMMANDS):
            console.print(Text("$ " + words.format(run="runs/first"), style="bold"))
            command = words.format(run=f"{place}/first").split()
            environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, env=environment)
            said = done.stdout if number else done.stderr
            lines = said.replace(place, "runs").splitlines()
            told = (
                [*lines[:FIRST_LINES], "", "...", "", *lines[-LAST_LINES:]]
                if number
                else filter(None, map(shown, lines))
            )
            for line in told:
                console.print(Text(line))
            console.print()
    console.save_svg(str(ROOT / "docs" / "terminal.svg"), title="kitune")


def shown(line: str) -> str:
    """A line as a terminal shows it in the end: of a bar its last state."""
    return line.rstrip("\r").rpartition("\r")[2].rstrip()


if __name__ == "__main__":
    main()
