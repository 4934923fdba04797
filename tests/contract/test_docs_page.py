"""/docs: what its files' headers promise, and the page in a real browser that finds no other host."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import hashlib
import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from serve_app.routes.docs import FOLDER
from tests.contract.http import World
from tests.servers.chromium import CHROMIUM, Tab, tab

PREFIX = "/behind/a/proxy"


@contextlib.asynccontextmanager
async def listening(world: World) -> AsyncIterator[str]:
    """The address of a real HTTP server before the API, which is also found under PREFIX, as behind a proxy."""
    application = world.application

    async def proxied(scope: Scope, receive: Receive, send: Send) -> None:
        await application({**scope, "path": scope["path"].removeprefix(PREFIX)}, receive, send)

    server = uvicorn.Server(uvicorn.Config(proxied, port=0, lifespan="off", log_config=None))
    serving = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110  uvicorn has no event for it
        await asyncio.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    await serving


@pytest.fixture
async def served_docs(on_sqlite: World) -> AsyncIterator[httpx.AsyncClient]:
    async with listening(on_sqlite) as address, httpx.AsyncClient(base_url=address) as client:
        yield client


async def test_the_root_leads_to_the_page_also_behind_a_proxys_prefix(served_docs: httpx.AsyncClient) -> None:
    for method in ("GET", "HEAD"):
        answer = await served_docs.request(method, "/")
        assert (answer.status_code, answer.headers["location"], answer.content) == (307, "docs", b"")
    assert (await served_docs.get("/", follow_redirects=True)).url.path == "/docs"
    assert (await served_docs.post("/")).status_code == 405
    for path in ("/docs/", "/docs/nothing.js", "/docs/../pyproject.toml", "/docs/vendor/NOTICE", "/nothing"):
        missing = await served_docs.get(path)
        assert (missing.status_code, missing.headers["content-type"]) == (404, "application/problem+json"), path
    page = (await served_docs.get("/docs")).text
    addresses = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert [address for address in addresses if re.match(r"/|\w+:(?!image/svg)", address)] == [], "all are relative"


async def test_every_file_is_fetched_once_and_runs_nothing_of_others(served_docs: httpx.AsyncClient) -> None:
    page = await served_docs.get("/docs")
    policy = dict(part.strip().split(" ", 1) for part in page.headers["content-security-policy"].split(";"))
    assert (policy["default-src"], policy["script-src"], policy["connect-src"]) == ("'none'", "'self'", "'self'")
    assert "<script>" not in page.text and "style=" not in page.text
    files = re.findall(r'(?:src|href)="(docs/[^"]*)"', page.text)
    assert len(files) == 4
    notice = (FOLDER / "vendor" / "NOTICE").read_text()
    sums = {name: digest for digest, name in re.findall(r"^([0-9a-f]{64})  (\S+)$", notice, re.MULTILINE)}
    assert set(sums) == {"swagger-ui-bundle.js", "swagger-ui.css"}
    for path in ("docs", "openapi.json", *files):
        packed = await served_docs.get(f"/{path}")
        plain = await served_docs.get(f"/{path}", headers={"Accept-Encoding": "identity"})
        assert packed.content == plain.content
        assert (packed.headers["content-encoding"], plain.headers.get("content-encoding")) == ("gzip", None)
        assert (packed.headers["vary"], packed.headers["x-content-type-options"]) == ("Accept-Encoding", "nosniff")
        assert packed.headers["etag"] != plain.headers["etag"], "they are other bytes"
        kind = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8"}.get(Path(path).suffix)
        assert kind is None or packed.headers["content-type"] == kind
        for answer, coding in ((packed, "gzip"), (plain, "identity")):
            known = {"Accept-Encoding": coding, "If-None-Match": answer.headers["etag"]}
            again = await served_docs.get(f"/{path}", headers=known)
            assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", answer.headers["etag"])
            head = await served_docs.head(f"/{path}", headers={"Accept-Encoding": coding})
            assert (head.status_code, head.content) == (200, b"")
            assert head.headers["content-length"] == answer.headers["content-length"]
        if path in files:
            digest = hashlib.sha256(plain.content).hexdigest()
            assert digest[:16] in path and packed.headers["cache-control"] == "public, max-age=31536000, immutable"
            name = re.sub(r"\.[0-9a-f]{16}\.", ".", Path(path).name)
            assert sums.pop(name, digest) == digest, "it is what npm has"
        else:
            assert packed.headers["cache-control"] == "no-cache"
    assert sums == {}


def test_the_repository_holds_the_packed_files_alone() -> None:
    vendor = FOLDER / "vendor"
    assert sorted(file.name for file in vendor.iterdir()) == ["NOTICE", "swagger-ui-bundle.js.gz", "swagger-ui.css.gz"]
    assert b"SwaggerUIBundle" in gzip.decompress((vendor / "swagger-ui-bundle.js.gz").read_bytes())


SCORE, ACTIVATE = "Scoring-post_api_score", "Models-post_api_models_version_activate"
CLICK = "(button => button && (button.click(), true))"


async def authorize(page: Tab, token: str) -> None:
    """As somebody does who pastes a token and presses buttons."""
    await page.until(f"{CLICK}(document.querySelector('.btn.authorize'))")
    await page.until("document.querySelector('.auth-container input')?.focus() ?? document.activeElement.value === ''")
    await page.call("Input.insertText", text=token)
    await page.value(f"{CLICK}(document.querySelector('.auth-btn-wrapper .authorize'))")
    await page.value(f"{CLICK}(document.querySelector('.btn-done'))")


async def execute(page: Tab, operation: str) -> str:
    """The status that an operation's example gets, unchanged."""
    block = f"document.getElementById('operations-{operation}')"
    for button in (".opblock-summary-control", ".try-out__btn", ".execute"):
        await page.until(f"{CLICK}({block}.querySelector('{button}'))")
    status = f"{block}.querySelector('.live-responses-table tbody .response-col_status')?.textContent"
    return str(await page.until(status))


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
async def test_a_visitor_gets_a_token_in_and_an_example_out_without_another_host(
    on_sqlite: World, tmp_path: Path
) -> None:
    document = (await on_sqlite.anonymous().get("/openapi.json")).json()
    documented = sorted(f"{method} {path}" for path, methods in document["paths"].items() for method in methods)
    async with listening(on_sqlite) as address, tab(tmp_path) as page:
        for width, height, start in ((1280, 900, f"{address}/"), (390, 844, f"{address}{PREFIX}/")):
            await page.size(width, height)
            await page.call("Page.navigate", url=start)
            await page.until("document.querySelectorAll('.opblock').length")
            shown = await page.value(
                "[...document.querySelectorAll('.opblock-summary')].map(one => "
                "one.querySelector('.opblock-summary-method').textContent.toLowerCase() + ' ' + "
                "one.querySelector('.opblock-summary-path').dataset.path)"
            )
            assert sorted(shown) == documented
            if width == 1280:
                await authorize(page, on_sqlite.token("admin"))  # afterwards the browser remembers it
            assert (await execute(page, SCORE)).startswith("200")
            assert await page.value("document.scrollingElement.scrollWidth <= innerWidth"), "it scrolls sideways"
        assert (await execute(page, ACTIVATE)).startswith("200"), "the page fills in the live version"
        asked = [httpx.URL(url) for url in page.asked if not url.startswith("data:")]
        assert {str(url.copy_with(path="/", query=None)) for url in asked} == {f"{address}/"}
        assert [url.path for url in asked if url.path.endswith("/api/score")] == ["/api/score", f"{PREFIX}/api/score"]
        assert page.complaints == []
