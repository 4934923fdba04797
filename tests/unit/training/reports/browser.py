"""Opens a page in headless Chromium, in a frame of a given width, and tells what is seen of it."""

from __future__ import annotations

import html
import json
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.servers.chromium import CHROMIUM

LOOK = """
const told = [];
const overlap = boxes => boxes.some((one, place) => boxes.slice(place + 1).some(other =>
  one.left < other.right && other.left < one.right && one.top < other.bottom && other.top < one.bottom));
async function look(address, width) {
  const frame = document.createElement("iframe");
  Object.assign(frame.style, {width: width + "px", height: "900px", border: 0});
  frame.src = address;
  const loaded = new Promise(done => { frame.onload = done; });
  document.body.append(frame);
  await loaded;
  const {document: page, window: inside} = {document: frame.contentDocument, window: frame.contentWindow};
  const drawn = () => [...page.querySelectorAll(".plot")].every(plot => plot.querySelector("svg"));
  for (let frames = 0; frames < 100 && !drawn(); frames += 1) await new Promise(requestAnimationFrame);
  const plots = [...page.querySelectorAll(".plot")].map(plot => {
    const svg = plot.querySelector("svg");
    if (!svg) return {drawn: false};
    const box = svg.getBoundingClientRect();
    const middle = {clientX: box.left + box.width / 2, clientY: box.top + box.height / 2};
    svg.dispatchEvent(new inside.PointerEvent("pointermove", {pointerType: "touch", ...middle}));
    const said = () => plot.querySelector("[aria-label=tip]")?.textContent ?? "";
    const touched = said();
    plot.dispatchEvent(new inside.KeyboardEvent("keydown", {key: "ArrowRight"}));
    const labels = [...svg.querySelectorAll("[aria-label='x-axis tick label'] text")];
    return {drawn: true, wide: svg.clientWidth <= plot.clientWidth, broken: /NaN|undefined/.test(svg.outerHTML),
      labels: labels.map(label => label.textContent),
      overlap: overlap(labels.map(label => label.getBoundingClientRect())), touched, stepped: said(),
      colour: inside.getComputedStyle(plot).color};
  });
  told.push({width, inner: inside.innerWidth, scroll: page.scrollingElement.scrollWidth, plots,
    paper: inside.getComputedStyle(page.body).backgroundColor, ran: inside.ran === true,
    fetched: inside.performance.getEntriesByType("resource").length});
  frame.remove();
}
(async () => {
  for (const address of PAGES) for (const width of WIDTHS) await look(address, width);
  document.querySelector("pre").textContent = JSON.stringify(told);
})();
"""


def looked_at(pages: Sequence[str], widths: Sequence[int], folder: Path, *, dark: bool = False) -> list[dict[str, Any]]:
    """
    Args:
        pages: HTML of each.
        widths: of the frames, in pixels.
        folder: where files may be written.

    Returns:
        What LOOK says of the first page at each width, of the second, and so on.
    """
    assert CHROMIUM is not None
    names = [f"page-{number}.html" for number in range(len(pages))]
    for name, page in zip(names, pages, strict=True):
        (folder / name).write_text(page, encoding="utf-8")
    script = LOOK.replace("PAGES", json.dumps(names)).replace("WIDTHS", json.dumps(widths))
    (folder / "look.html").write_text(f"<!doctype html><pre></pre><script>{script}</script>", encoding="utf-8")
    done = subprocess.run(
        [
            *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"),
            *("--allow-file-access-from-files", "--virtual-time-budget=60000", f"--user-data-dir={folder / 'profile'}"),
            *(f"--blink-settings=preferredColorScheme={0 if dark else 1}", "--window-size=1400,1000", "--dump-dom"),
            (folder / "look.html").as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    (told,) = re.findall(r"<pre>(.*?)</pre>", done.stdout, re.DOTALL)
    return list(json.loads(html.unescape(told)))
