"""Development tokens: `python -m serve_app.token --scope "partner" --partner-id p1`. Prints the token alone."""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from collections.abc import Sequence

import jwt

from db.state import State
from serve_app.http.auth import AUDIENCE, ISSUER, LIFETIME_MOST_S, SCOPES

UNITS = {"s": 1, "m": 60, "h": 3600}


def make(secret: str, scope: str, brand_ids: Sequence[str], partner_ids: Sequence[str], ttl_s: int, sub: str) -> str:
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
    """`90s`, `30m`, `1h`, at most a day."""
    match = re.fullmatch(r"(\d+)([smh])", text)
    value = int(match[1]) * UNITS[match[2]] if match else 0
    if not 0 < value <= LIFETIME_MOST_S:
        raise argparse.ArgumentTypeError("a time such as 90s, 30m or 1h, at most 24h")
    return value


def scopes(text: str) -> str:
    unknown = [word for word in text.split() if word not in SCOPES]
    if unknown or not text.split():
        raise argparse.ArgumentTypeError(f"one or more of: {' '.join(SCOPES)}")
    return text


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m serve_app.token", description="Print a development token (HS256).")
    parser.add_argument("--scope", type=scopes, required=True, help=f"space-separated: {' '.join(SCOPES)}")
    parser.add_argument("--brand-id", action="append", default=[], help="a brand of a brand token; may be repeated")
    parser.add_argument(
        "--partner-id", action="append", default=[], help="a partner of a partner token; may be repeated"
    )
    parser.add_argument(
        "--ttl", type=seconds, default=3600, help="lifetime such as 90s, 30m, 1h (default), at most 24h"
    )
    parser.add_argument("--sub", default="developer", help="the token's subject (default: developer)")
    arguments = parser.parse_args(argv)
    secret = os.environ.get("PACELINE_JWT_SECRET") or _secret_in_state()
    if secret is None:
        print(
            f"no key in {State.here().root}: start the system first (make run), or set STATE to its folder",
            file=sys.stderr,
        )
        return 1
    print(make(secret, arguments.scope, arguments.brand_id, arguments.partner_id, arguments.ttl, arguments.sub))
    return 0


def _secret_in_state() -> str | None:
    try:
        return State.here().jwt_secret.read_text().strip()
    except OSError:
        return None


if __name__ == "__main__":
    sys.exit(main())
