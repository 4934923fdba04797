"""The base of the sections of settings. Needs only pydantic, so that the money rules need no more, either."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, Field, StringConstraints

MOST = 1_000_000_000
"""Greater counts overflow in libraries, and greater times in the event loop's clock."""

Count = Annotated[int, Field(ge=1, le=MOST)]
Seconds = Annotated[float, Field(gt=0, le=MOST)]
Text = Annotated[str, StringConstraints(strip_whitespace=True)]


class Section(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False):
    """Settings that belong together. A field's docstring is its line in docs/settings.md."""

    def __setstate__(self, state: dict[Any, Any]) -> None:
        """When unpickling what a version with fewer settings has sent, use the defaults for the missing ones."""
        missing = {
            name: field.get_default(call_default_factory=True)
            for name, field in type(self).model_fields.items()
            if name not in state["__dict__"]
        }
        super().__setstate__(state | {"__dict__": state["__dict__"] | missing})
