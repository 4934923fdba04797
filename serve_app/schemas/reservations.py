"""Request and response of POST /api/reservations/release."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from serve_app.schemas.fields import Answer, Body

ReservationId = Annotated[str, StringConstraints(min_length=1, max_length=64)]


class ReleaseRequest(Body):
    """Wins that will not be shown."""

    reservation_ids: Annotated[list[ReservationId], Field(min_length=1, max_length=1000)]
    """1 to 1,000 of the `reservation_id`s that POST /api/score has answered."""


class Released(Answer):
    """A reservation of the request, and what became of it."""

    reservation_id: str
    """As in the request."""
    status: Literal["released", "ended", "shown", "not_found"]
    """`released`: what it held is the brand's again; `ended`: it holds nothing any more, because it was settled, has
    expired or was released before; `shown`: an event has named it, so it stays until it is settled or expires;
    `not_found`: no such reservation, or another partner's."""


class ReleaseResponse(Answer):
    """What became of each reservation."""

    released: int
    """How many were released."""
    items: list[Released]
    """In the order of the request."""
