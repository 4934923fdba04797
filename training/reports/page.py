"""A report's page: one file that asks for nothing from elsewhere, made from `templates/`.

It runs two scripts, Observable Plot (`vendor/plot.js`, made by `tools/vendor_plot.sh`) and `templates/charts.js`. Its
content security policy names them by their hashes: whatever a name holds, a browser runs and fetches nothing else.

Every run of a night writes its page anew and no checkpoint holds one, so templates are no part of `program.digest`.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import math
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from training.reports.charts import figure

FOLDER = Path(__file__).resolve().parent


@functools.cache
def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(FOLDER / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "ensure_ascii": False, "allow_nan": False}
    made.filters |= {"figure": figure, "factor": lambda logarithm: f"× {math.exp(logarithm):.3f}"}
    scripts = [(FOLDER / name).read_text(encoding="utf-8") for name in ("vendor/plot.js", "templates/charts.js")]
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    made.globals |= {
        "style": (FOLDER / "templates" / "style.css").read_text(encoding="utf-8"),
        "scripts": scripts,
        "policy": f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'",
    }
    return made


def render(template: str, **given: Any) -> str:
    """
    Args:
        template: a file of `templates/`.
        given: what it shows; all of it is escaped.

    Returns:
        The whole page, the same for the same input.

    Raises:
        jinja2.UndefinedError: the template names something that was not given.
    """
    return _environment().get_template(template).render(**given)
