"""Whoever keeps what a program has made must notice every change of the program, in whatever folder it lies."""

from training import program


def test_a_change_in_a_sub_package_is_a_change(tmp_path):
    (tmp_path / "trees").mkdir()
    (tmp_path / "trees" / "kernel.py").write_text("a = 1\n")
    before = program.digest_of(tmp_path)
    (tmp_path / "trees" / "kernel.py").write_text("a = 2\n")
    assert program.digest_of(tmp_path) != before


def test_a_module_that_moves_is_a_change(tmp_path):
    (tmp_path / "kernel.py").write_text("a = 1\n")
    before = program.digest_of(tmp_path)
    (tmp_path / "trees").mkdir()
    (tmp_path / "kernel.py").rename(tmp_path / "trees" / "kernel.py")
    assert program.digest_of(tmp_path) != before


def test_what_is_no_module_is_no_change(tmp_path):
    before = program.digest_of(tmp_path)
    (tmp_path / "notes.txt").write_text("a")
    assert program.digest_of(tmp_path) == before


def test_the_digest_is_of_this_package():
    assert program.digest() == program.digest_of(program.FOLDER)
    assert (program.FOLDER / "settings.py").exists()
