"""What a training says while it goes on: the bar, events.jsonl and log.json."""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm
from tqdm.auto import tqdm as notebook_bar

from kitune.metrics import without_nan
from kitune.notebook import in_notebook


def resident_mb() -> float:
    """Memory of this process that no file backs, in MiB; 0 where the system does not say."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("RssAnon")), 0.0)


class Journal:
    """The open events.jsonl and the bar of the part that runs; only the first process has one that writes."""

    def __init__(self, folder: Path, *, writes: bool, step: int) -> None:
        self._path = folder / "events.jsonl"
        self._log = folder / "log.json"
        self._writes = writes
        self._bar: tqdm[Any] | None = None
        self._clock, self._tokens = time.perf_counter(), 0
        if writes:
            cut_back(self._path, step)
            self._file = self._path.open("a", encoding="utf-8", buffering=1)  # by line: people watch it grow

    def begin(self, epoch: int, name: str, total: int, done: int = 0) -> None:
        """Show a bar for `total` steps of a part (TRAIN, VALID, TEST) of an epoch."""
        self.end()
        if self._writes:
            plain = "utf" not in (getattr(sys.stderr, "encoding", "") or "").lower()
            self._bar = (notebook_bar if in_notebook() else tqdm)(
                total=total,
                initial=done,
                desc=f"[Epoch {epoch}] [{name}]",
                ascii=plain,
                dynamic_ncols=True,
                disable=sys.stderr is None or (False if in_notebook() else None),  # None: not where nobody looks
                mininterval=0.5,
            )
        self._clock, self._tokens = time.perf_counter(), 0

    def advance(self) -> None:
        """Move the bar by one."""
        if self._bar is not None:
            self._bar.update()

    def end(self) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def step(self, event: dict[str, Any], *, tokens: int, logged: bool) -> None:
        """One update is done: move the bar, and write a line where one is due."""
        self._tokens += tokens
        if self._bar is not None:
            self._bar.set_postfix_str(f"loss={event['loss']:.3g}, lr={event['lr']:.2g}", refresh=False)
            self._bar.update()
        if self._writes and logged:
            now = time.perf_counter()
            rate = self._tokens / max(1e-9, now - self._clock)
            self._clock, self._tokens = now, 0
            # JSON has no infinity; fp16's skipped updates have.
            line = {**event, "tokens_per_s": round(rate), "memory_mb": round(resident_mb())}
            self._file.write(json.dumps(without_nan(line)) + "\n")

    def write_log(self, log: dict[str, Any]) -> None:
        """Replace log.json by `log`, whole at every instant; and put the events so far on the disk."""
        if self._writes:
            self._file.flush()
            os.fsync(self._file.fileno())
            staging = self._log.with_name(".log.json")
            staging.write_text(json.dumps(without_nan(log), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
            staging.replace(self._log)

    def close(self) -> None:
        """Close bar and file."""
        self.end()
        if self._writes:
            self._file.close()


def cut_back(path: Path, step: int) -> None:
    """Drop events after `step`, and a line that a crash has torn."""
    if not path.exists():
        return
    kept_bytes = 0
    with path.open("rb") as file:
        for line in file:
            try:
                if json.loads(line)["step"] > step or not line.endswith(b"\n"):
                    break
            except (ValueError, KeyError, TypeError):
                break
            kept_bytes += len(line)
    os.truncate(path, kept_bytes)  # in one call: a crash leaves the old end or the new one
