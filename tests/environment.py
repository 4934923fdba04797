"""Settings as a process reads them that has these `PACELINE_` variables and no others."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest

from serve_app.settings import Settings, load


@contextmanager
def paceline_variables(environ: Mapping[str, str]) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("PACELINE_")]:
            patch.delenv(name)
        for name, value in environ.items():
            patch.setenv(name, value)
        yield


def load_in(environ: Mapping[str, str], args: Mapping[str, Any] | None = None) -> Settings:
    with paceline_variables(environ):
        return load(args)
