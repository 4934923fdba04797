"""What a section of settings is made of. Needs pydantic alone: the rules of money shall need no more than that."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, Field, StringConstraints

MOST = 1_000_000_000
"""Greater counts overflow in the libraries below us, and greater times in the event loop's clock."""

Count = Annotated[int, Field(ge=1, le=MOST)]
Seconds = Annotated[float, Field(gt=0, le=MOST)]
Text = Annotated[str, StringConstraints(strip_whitespace=True)]


class Section(BaseModel, frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False):
    """Settings that belong together. A field's docstring is its line in docs/settings.md."""

    def __setstate__(self, state: dict[Any, Any]) -> None:
        """Unpickled: what a version that had fewer settings has not sent has its default."""
        missing = {
            name: field.get_default(call_default_factory=True)
            for name, field in type(self).model_fields.items()
            if name not in state["__dict__"]
        }
        super().__setstate__(state | {"__dict__": state["__dict__"] | missing})
