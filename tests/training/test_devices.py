"""Which cores and which precision a process takes."""

import os
from pathlib import Path

import pytest
import torch

from kitune.config import EngineOptions
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


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, 4),
        ({"OMP_NUM_THREADS": "1"}, 1),
        ({"OMP_NUM_THREADS": "9"}, 4),
        ({"OMP_NUM_THREADS": "1", "LOCAL_WORLD_SIZE": "2"}, 2),
    ],
)
def test_fewer_threads_can_be_asked_for_and_torchrun_asks_for_none(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], expected: int
) -> None:
    for name in ("OMP_NUM_THREADS", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(devices, "cores", lambda: 4)
    before = torch.get_num_threads()
    try:
        assert devices.set_threads(EngineOptions(), 1) == expected
        assert devices.set_threads(EngineOptions(threads=3), 1) == 3
    finally:
        torch.set_num_threads(before)
