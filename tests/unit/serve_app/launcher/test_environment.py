"""What `make run` reads in its environment, and where it says that it listens."""

from pathlib import Path

import pytest

from db.environment import BadSetting
from db.state import State
from serve_app.launcher import environment
from serve_app.launcher.serve_application import url_of
from serve_app.settings import HttpSettings, Settings


def test_options(monkeypatch, tmp_path):
    for name in ("DATA", "NIGHTLY"):
        monkeypatch.delenv(name, raising=False)
    assert environment.options() == (None, True)
    history = tmp_path / "history.csv"
    history.write_text("x")
    monkeypatch.setenv("DATA", str(history))
    monkeypatch.setenv("NIGHTLY", "OFF")
    assert environment.options() == (history.resolve(), False)


@pytest.mark.parametrize(
    ("name", "value"),
    [("NIGHTLY", "maybe"), *(("PORT", port) for port in ("0", "70000", "eighty", ",", "-1", "٨٠٨٠"))]
    + [("DATA", path) for path in ("/no/such/file.csv", "/tmp", "/dev/null", "/proc/self/mem")],
)
def test_an_option_that_cannot_be_used_is_named(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(BadSetting, match=f"{name}='{value}'"):
        environment.options()


def test_a_history_that_is_empty_is_named(monkeypatch, tmp_path):
    (tmp_path / "history.csv").touch()
    monkeypatch.setenv("DATA", str(tmp_path / "history.csv"))
    with pytest.raises(BadSetting, match=r"history.csv': the file is empty"):
        environment.options()


def test_a_secret_that_is_too_short_is_named_by_its_file(monkeypatch, tmp_path):
    state = State(tmp_path)
    state.jwt_secret.write_text("short")
    with pytest.raises(BadSetting, match=r"jwt_secret holds less than 32 bytes.*delete it, and a new one is made"):
        environment.keys(state, Settings())


@pytest.mark.parametrize("name", ["ray_token", "jwt_secret", "model_key"])
def test_a_key_without_content_is_named_by_its_file(tmp_path, name):
    (tmp_path / name).write_bytes(b"\n")
    with pytest.raises(BadSetting, match=f"{name} holds no key; delete it, and a new one is made"):
        environment.keys(State(tmp_path), Settings())


def test_make_s_short_names_stand_under_their_long_ones(monkeypatch):
    monkeypatch.setenv("PORT", "8123")
    found = environment.with_long_names(State(Path("/state")))
    assert (found["PACELINE_HTTP_PORT"], found["PACELINE_STATE"]) == ("8123", "/state")


@pytest.mark.parametrize(
    ("host", "shown"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("0.0.0.0", "127.0.0.1"),
        ("::", "127.0.0.1"),
        ("localhost", "127.0.0.1"),
        ("::1", "[::1]"),
        ("10.0.0.7", "10.0.0.7"),
    ],
)
def test_the_url_leads_there_from_this_machine(host, shown):
    assert url_of(HttpSettings(host=host, port=8001)) == f"http://{shown}:8001"
