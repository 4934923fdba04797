"""A key is made once, whole or not at all, and for its owner only."""

import errno
import os
import re
from concurrent.futures import ThreadPoolExecutor

import pytest

from db.environment import BadSetting
from db.state import secret_file


def test_a_key_is_made_once_and_for_its_owner_only(tmp_path):
    path = tmp_path / "state" / "key"
    secret = secret_file(path)
    assert re.fullmatch("[0-9a-f]{64}", secret)
    assert secret_file(path) == secret
    assert path.stat().st_mode & 0o777 == 0o600
    assert secret_file(tmp_path / "other") != secret


def test_what_the_owner_put_there_stays(tmp_path):
    (tmp_path / "key").write_text("  of my own\n")
    assert secret_file(tmp_path / "key") == "of my own"


def test_many_at_once_agree(tmp_path):
    with ThreadPoolExecutor(16) as pool:
        assert len(set(pool.map(secret_file, [tmp_path / "key"] * 64))) == 1
    assert os.listdir(tmp_path) == ["key"]


def test_a_write_that_fails_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(_descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            secret_file(tmp_path / "key")
    assert os.listdir(tmp_path) == []
    assert len(secret_file(tmp_path / "key")) == 64


@pytest.mark.parametrize("content", [b"", b" \n", b"\xff\xfe\x00"])
def test_a_file_without_a_key_is_named(tmp_path, content):
    (tmp_path / "key").write_bytes(content)
    with pytest.raises(BadSetting, match="key holds no key; delete it"):
        secret_file(tmp_path / "key")
