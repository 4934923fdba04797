"""Reads a report as a browser would, and complains where a browser would silently repair."""

from __future__ import annotations

import re
from html.parser import HTMLParser

VOID = ("meta",)
EMPTY_IN_SVG = ("path", "rect", "circle")


class Page(HTMLParser):
    """
    Raises:
        AssertionError: the tags do not balance, or something is from elsewhere.
    """

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.sections: list[str] = []
        self.links: list[str] = []
        self.tags: dict[str, int] = {}
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == [], "not closed"
        assert sorted(self.links) == sorted(self.sections), "links go to sections, and to every one"
        assert not re.search(r"https?:|//[a-z]|url\(|@import", text), "something is from elsewhere"

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags[tag] = self.tags.get(tag, 0) + 1
        given = dict(attributes)
        assert tag not in ("script", "link", "img", "iframe", "object"), tag
        assert "src" not in given and not any(name.startswith("on") for name in given), given
        assert not any("nan" in str(value).lower() or "inf" in str(value).lower().split() for value in given.values())
        if tag == "section":
            self.sections.append(str(given["id"]))
        if tag == "a":
            self.links.append(str(given["href"]).removeprefix("#"))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        assert tag in EMPTY_IN_SVG and "svg" in self.open, f"<{tag}/>"
        self.handle_starttag(tag, attributes)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes another tag"

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def sections_of(text: str) -> list[str]:
    """Their ids, in order, of a page that is well-formed and from nowhere else."""
    return Page(text).sections
