"""What may lie in the place of the last-good file, and of its lock."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import pytest

from central_hub.cache import LastGood
from central_hub.entries import MAX_TEXT, Entry, Position

ENTRY = Entry(Position(7, 2), 1, "c1", {"a": 1})


def test_a_huge_file_is_neither_read_nor_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = LastGood(tmp_path, "tick")
    with file.path.open("wb") as huge:
        huge.truncate(32 * MAX_TEXT)
    tracemalloc.start()
    try:
        assert file.read() is None
        file.write(ENTRY)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * MAX_TEXT, "only as much is read as shows that it is too large"
    assert "is ignored" in caplog.text
    assert file.read() == ENTRY


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    file = LastGood(tmp_path, "tick")
    os.mkfifo(file.path)
    assert file.read() is None
    file.write(ENTRY)
    assert file.read() == ENTRY


def test_a_pipe_with_a_silent_writer_is_not_waited_for(tmp_path: Path) -> None:
    file = LastGood(tmp_path, "tick")
    os.mkfifo(file.path)
    writer = os.open(file.path, os.O_RDWR)
    try:
        assert file.read() is None
    finally:
        os.close(writer)


def test_a_link_in_the_place_of_the_lock_is_not_followed(tmp_path: Path) -> None:
    file = LastGood(tmp_path / "cache", "tick")
    file.path.parent.mkdir()
    elsewhere = tmp_path / "elsewhere"
    Path(f"{file.path}.lock").symlink_to(elsewhere)
    file.write(ENTRY)
    assert not elsewhere.exists()
    assert file.read() == ENTRY, "it is written without the lock"
