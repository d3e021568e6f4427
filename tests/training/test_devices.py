"""Which cores and which precision a process takes."""

import os
from pathlib import Path

import pytest

from kitune.training import devices


@pytest.mark.parametrize(
    ("quota", "bound", "expected"),
    [
        ("200000 100000", 8, 2),
        ("150000 100000", 8, 2),
        ("50000 100000", 8, 1),
        ("max 100000", 8, 8),
        ("900000 100000", 4, 4),
    ],
)
def test_a_container_s_share_of_time_bounds_the_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str, bound: int, expected: int
) -> None:
    (tmp_path / "cpu.max").write_text(quota + "\n")
    monkeypatch.setattr(devices, "QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(bound)))
    assert devices.cores() == expected


def test_without_a_quota_all_cores_that_it_is_bound_to_are_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "QUOTA", tmp_path / "none")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 5, 7})
    assert devices.cores() == 3
