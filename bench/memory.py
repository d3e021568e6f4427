"""Peak memory that no file backs (RssAnon): what a process takes from its neighbours, mapped weights not counted."""

from __future__ import annotations

import threading
from pathlib import Path

EVERY_S = 0.05


def anonymous_mb(pid: int) -> float:
    """RssAnon of a process in MiB; 0 where the system does not say, or it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("RssAnon")), 0.0)


class PeakMemory:
    """Watches a process from now on. The kernel keeps a high-water mark of all memory (VmHWM), not of RssAnon."""

    def __init__(self, pid: int) -> None:
        self.pid, self.peak_mb = pid, 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._ended.wait(EVERY_S):
            self.peak_mb = max(self.peak_mb, anonymous_mb(self.pid))

    def stop(self) -> float:
        """The peak, in MiB."""
        self._ended.set()
        self._thread.join()
        return self.peak_mb
