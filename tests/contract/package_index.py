"""A package index on this machine: a few small packages, and a line that can be made to stand still."""

from __future__ import annotations

import os
import subprocess
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from uv import find_uv_bin

PYPROJECT = """
[project]
name = "{name}"
version = "{version}"
requires-python = ">=3.11"
dependencies = [{needs}]

[build-system]
requires = ["uv_build>=0.9,<1"]
build-backend = "uv_build"

[tool.uv.build-backend]
module-name = "{module}"
module-root = ""
"""


class Index:
    """`url` is what UV_DEFAULT_INDEX takes, `asked` the paths that were asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = ""
        self.asked: list[str] = []
        self.flowing = threading.Event()
        """Cleared, a wheel that is asked for does not come until it is set again."""
        self.flowing.set()

    def add(self, name: str, *needs: str, version: str = "1.0", bytes_: int = 10, program: str = "") -> None:
        """A package whose module holds `bytes_` of data, and a program of its name, if any."""
        source = self.folder / "sources" / name
        module = source / name
        module.mkdir(parents=True)
        (module / "__init__.py").write_text("")
        (module / "data.bin").write_bytes(os.urandom(bytes_))
        required = ", ".join(f'"{need}"' for need in needs)
        project = PYPROJECT.format(name=name, version=version, needs=required, module=name)
        if program:
            (source / "programs").mkdir()
            (source / "programs" / name).write_text(program)
            (source / "programs" / name).chmod(0o755)
            project += '[tool.uv.build-backend.data]\nscripts = "programs"\n'
        (source / "pyproject.toml").write_text(project)
        wheels = self.folder / "simple" / name
        build = [find_uv_bin(), "build", "--offline", "--quiet", "--wheel", "--out-dir", str(wheels), str(source)]
        subprocess.run(build, check=True)
        (wheel,) = wheels.glob("*.whl")
        # What it needs is in a file beside it, as on the public index: to resolve, no wheel has to be fetched.
        metadata = zipfile.ZipFile(wheel).read(f"{name}-{version}.dist-info/METADATA")
        wheel.with_name(f"{wheel.name}.metadata").write_bytes(metadata)
        link = f'<a href="{wheel.name}" data-core-metadata="true">{wheel.name}</a>'
        (wheels / "index.html").write_text(f"<!DOCTYPE html><html><body>{link}</body></html>")

    @contextmanager
    def served(self) -> Iterator[Index]:
        server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, self))
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        self.url = f"http://127.0.0.1:{server.server_address[1]}/simple"
        try:
            yield self
        finally:
            self.flowing.set()
            server.shutdown()
            server.server_close()
            thread.join()


class _Handler(SimpleHTTPRequestHandler):
    def __init__(self, index: Index, *arguments) -> None:
        self._index = index
        super().__init__(*arguments, directory=str(index.folder))

    def do_GET(self) -> None:
        self._index.asked.append(self.path)
        with suppress(BrokenPipeError, ConnectionResetError):  # who asked has been stopped
            super().do_GET()

    def copyfile(self, source, outputfile) -> None:
        if self.path.endswith(".whl"):  # its size has been told by now
            self._index.flowing.wait(120)
        super().copyfile(source, outputfile)

    def log_message(self, *_: object) -> None:
        pass
