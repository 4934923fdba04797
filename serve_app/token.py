"""`python -m serve_app.token`, `paceline token`: tokens for development, signed with the key of a state folder."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Sequence
from typing import Annotated

import typer

from db.command_line import Command, Json, StateFolder, commands, run
from db.errors import UserError
from db.fields import ID, ID_IN_WORDS

UNITS = {"s": 1, "m": 60, "h": 3600}


def make(secret: str, scope: str, brand_ids: Sequence[str], partner_ids: Sequence[str], ttl_s: int, sub: str) -> str:
    """A token that is valid from now for `ttl_s` seconds."""
    import jwt

    from serve_app.http.auth import AUDIENCE, ISSUER

    now = int(time.time())
    claims: dict[str, object] = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": sub,
        "iat": now,
        "exp": now + ttl_s,
        "scope": scope,
    }
    if brand_ids:
        claims["brand_ids"] = list(brand_ids)
    if partner_ids:
        claims["partner_ids"] = list(partner_ids)
    return jwt.encode(claims, secret, algorithm="HS256")


def seconds(text: str) -> int:
    """How long a token may live.

    Raises:
        typer.BadParameter: no such time, or more than a day.

    >>> seconds("90s"), seconds("30m"), seconds("1h")
    (90, 1800, 3600)
    """
    from serve_app.http.auth import LIFETIME_MOST_S

    match = re.fullmatch(r"(\d+)([smh])", text)
    value = int(match[1]) * UNITS[match[2]] if match else 0
    if not 0 < value <= LIFETIME_MOST_S:
        raise typer.BadParameter(
            f"{text!r} is not a time such as 90s, 30m or 1h, at most {LIFETIME_MOST_S // 3600}h", param_hint="--ttl"
        )
    return value


def scopes(text: str) -> None:
    """
    Raises:
        typer.BadParameter: some word is no scope.
    """
    from serve_app.http.auth import SCOPES

    unknown = [word for word in text.split() if word not in SCOPES]
    if unknown or not text.split():
        raise typer.BadParameter(f"{text!r} is not one or more of: {' '.join(SCOPES)}", param_hint="--scope")


def check_ids(option: str, ids: Sequence[str]) -> None:
    """
    Raises:
        typer.BadParameter: one of them is no id.
    """
    for id_ in ids:
        if not ID.fullmatch(id_):
            raise typer.BadParameter(f"{id_!r}: {ID_IN_WORDS}", param_hint=option)


app = commands()


@app.command("token", cls=Command)
def token(
    scope: Annotated[
        str, typer.Option(metavar="SCOPES", help='What it may do: admin, partner, brand, or several in "quotes".')
    ],
    brand_id: Annotated[
        list[str] | None, typer.Option(metavar="ID", help="A brand that scope brand is for; may be repeated.")
    ] = None,
    partner_id: Annotated[
        list[str] | None, typer.Option(metavar="ID", help="A partner that scope partner is for; may be repeated.")
    ] = None,
    ttl: Annotated[str, typer.Option(metavar="TIME", help="How long it is valid: 90s, 30m, 1h, at most 24h.")] = "1h",
    sub: Annotated[str, typer.Option(metavar="NAME", help="Whom it is for; logs show it.")] = "developer",
    state: StateFolder = None,
    as_json: Json = False,
) -> None:
    """Print a token for requests to a running Paceline, and nothing else.

    It is signed with the key that the first start has left in the state folder, or with PACELINE_JWT_SECRET: for
    development. In production an identity provider signs tokens (PACELINE_JWKS).

    Examples:
      paceline token --scope admin
      paceline token --scope partner --partner-id partner-4 --ttl 30m
      TOKEN=$(paceline token --scope "partner brand" --partner-id p1 --brand-id b1)

    Exit codes:
      0  printed
      1  there is no key
      2  a wrong option
    """
    scopes(scope)
    ttl_s = seconds(ttl)
    check_ids("--brand-id", brand_id or [])
    check_ids("--partner-id", partner_id or [])
    made = make(_secret(), scope, brand_id or [], partner_id or [], ttl_s, sub)
    print(json.dumps({"token": made, "scope": scope, "expires_in_s": ttl_s}) if as_json else made)


def _secret() -> str:
    """
    Raises:
        UserError: there is no key.
        OSError: it cannot be read.
    """
    from db.state import State

    if given := os.environ.get("PACELINE_JWT_SECRET"):
        return given
    file = State.here().jwt_secret
    try:
        secret = file.read_bytes().decode(errors="replace").strip()
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"no key in {file.parent}: start Paceline first (`make run`), or name its state folder with --state"
        ) from None
    if not secret:
        raise UserError(f"{file} holds no key; delete it, and the next start makes a new one")
    return secret


def main(arguments: Sequence[str] | None = None) -> int:
    return run(app, "python -m serve_app.token", arguments)


if __name__ == "__main__":
    sys.exit(main())
