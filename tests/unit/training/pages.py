"""Reads a report as a browser would, and complains where a browser would silently repair."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from typing import Any

VOID = ("meta",)


class Page(HTMLParser):
    """
    Raises:
        AssertionError: the tags do not balance, something is from elsewhere, or a script is not one of the page's own.
    """

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.sections: list[str] = []
        self.links: list[str] = []
        self.text: list[str] = []
        self.charts: list[dict[str, Any]] = []
        self.tables: list[list[list[str]]] = []
        self.policy = ""
        self._script: str | None = None  # its type
        self.scripts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == [], "not closed"
        assert sorted(self.links) == sorted(self.sections), "links go to sections, and to every one"
        digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in self.scripts]
        allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
        assert self.policy == f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'"
        assert len(digests) == 2, "Observable Plot and what calls it"
        for script in self.scripts:
            text = text.replace(script, "")
        assert not re.search(r"https?:|//[a-z]|url\(|@import", text), "something is from elsewhere"

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        assert tag not in ("link", "img", "iframe", "object", "svg"), tag
        assert "src" not in given and not any(name.startswith("on") for name in given), given
        if tag == "section":
            self.sections.append(str(given["id"]))
        if tag == "a":
            self.links.append(str(given["href"]).removeprefix("#"))
        if tag == "meta" and "http-equiv" in given:
            self.policy = str(given["content"])
        if tag == "script":
            self._script = given.get("type") or "javascript"
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("th", "td"):
            self.tables[-1][-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        raise AssertionError(f"<{tag}/>")

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes another tag"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            if self._script == "application/json":
                self.charts.append(json.loads(data, parse_constant=_no_number))
            else:
                self.scripts.append(data)
            return
        if self.open and self.open[-1] in ("th", "td"):
            self.tables[-1][-1][-1] += data
        self.text.append(data)


def _no_number(name: str) -> None:
    raise AssertionError(f"{name} is no JSON")


def sections_of(text: str) -> list[str]:
    """Their ids, in order, of a page that is well-formed and from nowhere else."""
    return Page(text).sections
