"""A file is written whole or not at all."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from db.files import atomic_path, atomic_write


@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("content", ["λ = 0.5\r\n", b"\x00\xff", memoryview(b"view")])
def test_what_was_written_is_read(tmp_path: Path, content: str | bytes | memoryview, durable: bool) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    atomic_write(path, content, durable=durable)
    assert path.read_bytes() == (content.encode() if isinstance(content, str) else bytes(content))
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_a_writer_that_fails_leaves_the_old_content_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def write_half() -> None:
        with atomic_path(path) as draft:
            draft.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_block_that_wrote_nothing_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="file"), atomic_path(tmp_path / "file"):
        pass


def test_a_name_of_the_longest_length_can_be_written(tmp_path: Path) -> None:
    atomic_write(tmp_path / ("ö" * 127), "long")
    assert (tmp_path / ("ö" * 127)).read_text() == "long"


def test_a_new_file_is_readable_as_any_other_that_this_user_makes(tmp_path: Path) -> None:
    (tmp_path / "usual").write_text("")
    atomic_write(tmp_path / "file", "")
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_readers_see_one_writers_content_whole_while_many_write(tmp_path: Path) -> None:
    path, contents = tmp_path / "file", [f"{number}" * 50_000 for number in range(4)]
    atomic_write(path, contents[0])

    def write(content: str) -> None:
        for _ in range(50):
            atomic_write(path, content)

    writers = [threading.Thread(target=write, args=(content,)) for content in contents]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        assert path.read_text() in contents
    assert list(tmp_path.iterdir()) == [path]
