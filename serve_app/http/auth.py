"""Checks bearer tokens (JWT). Which algorithms are accepted is decided by configuration, never by the token."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import jwt
from jwt import PyJWK, PyJWKSet

from db.environment import without_password
from db.errors import in_a_line
from serve_app.http.problem_details import Problem, Unauthorized, not_found

logger = logging.getLogger("paceline.auth")

ISSUER, AUDIENCE = "partnerize", "paceline"
LIFETIME_MOST_S, LEEWAY_S = 24 * 3600, 30
TOKEN_MOST_BYTES = 8192
SCOPES = ("admin", "partner", "brand")
ASYMMETRIC = ("RS256", "ES256", "EdDSA")
CACHED_TOKENS = 4096
REFETCH_S, REFRESH_S = 10.0, 300.0


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a request, and for which brands and partners they may act, as their token says."""

    sub: str
    scopes: frozenset[str]
    brand_ids: frozenset[str]
    partner_ids: frozenset[str]

    @property
    def is_admin(self) -> bool:
        return "admin" in self.scopes

    def require(self, *scopes: str) -> None:
        """Raises: Problem 403, the token has none of these scopes."""
        if not self.scopes.intersection(scopes):
            raise Problem(403, f"this route needs a token with scope {' or '.join(scopes)}", "forbidden")

    def owns_partner(self, partner_id: str) -> bool:
        return self.is_admin or ("partner" in self.scopes and partner_id in self.partner_ids)

    def owns_brand(self, brand_id: str) -> bool:
        return self.is_admin or ("brand" in self.scopes and brand_id in self.brand_ids)

    def must_own_brand(self, brand_id: str) -> None:
        """Raises: Problem 404, the brand is another caller's; the same answer as for a brand that does not exist."""
        if not self.owns_brand(brand_id):
            raise not_found("brand")


class Secret:
    """One shared HS256 key (PACELINE_JWT_SECRET), for development only."""

    algorithms = ("HS256",)

    def __init__(self, secret: str) -> None:
        self._key = secret.encode()

    async def key(self, _header: dict[str, Any]) -> Any:
        return self._key


class KeySet:
    """Public keys by `kid`, read from a file or URL (PACELINE_JWKS). When a read fails, the last good set stays in use.

    The source is read again after REFRESH_S, or after REFETCH_S where a token names a key that is not in the set.
    """

    algorithms = ASYMMETRIC

    def __init__(self, source: str) -> None:
        self._source = source
        self._keys: dict[str | None, PyJWK] = {}
        self._tried_at = self._fetched_at = -1e9
        self._lock = asyncio.Lock()

    async def key(self, header: dict[str, Any]) -> Any:
        """The public key that a token's header names.

        Raises:
            Unauthorized: 401, no such key, or it is for another algorithm.
            Problem: 503, no key set could be read since this replica started.
        """
        kid = header.get("kid")
        now = time.monotonic()
        wait = REFRESH_S if kid in self._keys else REFETCH_S
        if now - self._tried_at > wait:
            async with self._lock:
                if time.monotonic() - self._tried_at > wait:
                    await self._fetch()
        if not self._keys:
            detail = "the server cannot read the public keys that tokens are checked with; try again in 10 s"
            raise Problem(503, detail, "keys-unavailable", {"Retry-After": "10"})
        found = self._keys.get(kid) if kid is not None or len(self._keys) > 1 else next(iter(self._keys.values()))
        if found is None:
            raise Unauthorized("the token names a key (kid) that is not in the key set")
        if found.algorithm_name != header.get("alg"):
            raise Unauthorized("the token's algorithm (alg) is not the one of its key")
        return found.key

    async def _fetch(self) -> None:
        self._tried_at = time.monotonic()
        try:
            if self._source.startswith(("http://", "https://")):
                async with httpx.AsyncClient(timeout=5.0) as client:
                    content = (await client.get(self._source)).raise_for_status().json()
            else:
                content = json.loads(await asyncio.to_thread(Path(self._source).read_text))
            keys = {key.key_id: key for key in PyJWKSet.from_dict(content).keys if key.algorithm_name in ASYMMETRIC}
            if not keys:
                raise ValueError(f"it holds no key for {', '.join(ASYMMETRIC)}")
            self._keys = keys
        except (OSError, ValueError, httpx.HTTPError, jwt.PyJWTError, AttributeError) as error:
            known = f"the last {len(self._keys)} keys stay in use" if self._keys else "requests get 503 until it can"
            source, reason = without_password(self._source), without_password(in_a_line(error))
            logger.error("cannot read the token keys from PACELINE_JWKS=%s, %s: %s", source, known, reason)


class Authenticator:
    """Checks tokens, and remembers those that passed for at most a minute."""

    def __init__(self, keys: Secret | KeySet) -> None:
        self._keys = keys
        self._passed: dict[str, tuple[float, Caller]] = {}

    async def caller(self, authorization: str | None) -> Caller:
        """Who sent a request.

        Args:
            authorization: the header's value, `Bearer <token>`; None if it is missing.

        Raises:
            Unauthorized: 401, no token, or one that does not pass.
            Problem: 503, the keys cannot be read.
        """
        if not authorization:
            raise Unauthorized("a bearer token is needed: send the header Authorization: Bearer <token>")
        scheme, _, token = authorization.partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not token:
            raise Unauthorized("the Authorization header must be: Bearer <token>")
        known = self._passed.get(token)
        if known is not None and time.time() < known[0]:
            return known[1]
        if len(token) > TOKEN_MOST_BYTES:
            raise Unauthorized(f"the token is longer than {TOKEN_MOST_BYTES} bytes")
        claims = await self._claims(token)
        caller = _caller(claims)
        if len(self._passed) >= CACHED_TOKENS:
            self._passed.clear()
        # A remembered token is checked again after a minute at the latest, so that a withdrawn key stops working.
        self._passed[token] = (min(claims["exp"] + LEEWAY_S, time.time() + 60), caller)
        return caller

    async def _claims(self, token: str) -> dict[str, Any]:
        try:
            header = jwt.get_unverified_header(token)
            if header.get("alg") not in self._keys.algorithms:
                raise Unauthorized(f"the token's algorithm (alg) must be {' or '.join(self._keys.algorithms)}")
            if header.get("typ", "JWT").lower() not in ("jwt", "at+jwt"):
                raise Unauthorized("the token is not an access token: its typ must be JWT or at+jwt")
            claims: dict[str, Any] = jwt.decode(
                token,
                await self._keys.key(header),
                algorithms=list(self._keys.algorithms),
                issuer=ISSUER,
                audience=AUDIENCE,
                leeway=LEEWAY_S,
                options={"require": ["iss", "aud", "sub", "exp", "iat"]},
            )
        except jwt.ExpiredSignatureError:
            raise Unauthorized("the token has expired: get a new one") from None
        except jwt.MissingRequiredClaimError as error:
            raise Unauthorized(f"the token has no claim {error.claim}") from None
        except (jwt.PyJWTError, ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            logger.debug("token refused: %s", error)
            detail = f"the token is not valid: its signature, iss ({ISSUER}), aud ({AUDIENCE}) or times do not check"
            raise Unauthorized(detail) from None
        return claims


def _caller(claims: dict[str, Any]) -> Caller:
    if not all(isinstance(claims[name], (int, float)) for name in ("iat", "exp")):
        raise Unauthorized("the token's exp and iat must be numbers: seconds since 1970")
    if not 0 < claims["exp"] - claims["iat"] <= LIFETIME_MOST_S:
        raise Unauthorized("the token's exp must be after its iat, by 24 h at most")
    sub, scope = claims["sub"], claims.get("scope", "")
    if not isinstance(sub, str) or not 1 <= len(sub) <= 255 or not sub.isascii() or not sub.isprintable():
        raise Unauthorized("the token's sub must be 1 to 255 printable ASCII characters")
    if not isinstance(scope, str):
        raise Unauthorized("the token's scope must be text: admin, partner, brand, separated by spaces")
    scopes = frozenset(scope.split()).intersection(SCOPES)
    return Caller(sub, scopes, _ids(claims, "brand_ids"), _ids(claims, "partner_ids"))


def _ids(claims: dict[str, Any], name: str) -> frozenset[str]:
    value = claims.get(name, [])
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise Unauthorized(f"the token's {name} must be a list of ids")
    return frozenset(value)
