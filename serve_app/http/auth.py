"""Checks bearer tokens (JWT). Which algorithms are accepted is decided by configuration, never by the token.

A refused token's answer says only what anybody may know; why it was refused is a code in the access log.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jwt
from jwt.exceptions import InvalidSubjectError
from jwt.utils import base64url_decode

from db.fields import ID
from serve_app.http.jwks import NO_KEY_SET, Health, KeySet
from serve_app.http.problem_details import Problem, Unauthorized, not_found
from serve_app.http.strict_json import strict_object

logger = logging.getLogger("paceline.auth")

ISSUER, AUDIENCE = "partnerize", "paceline"
LIFETIME_MOST_S, LEEWAY_S = 24 * 3600, 30
TOKEN_MOST_BYTES = 8192
SCOPES = ("admin", "partner", "brand")
TYPES = ("jwt", "at+jwt")
"""What a token may call itself (`typ`), after RFC 9068, with or without `application/` before it."""
CACHED_TOKENS = 4096


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
    health = NO_KEY_SET

    def __init__(self, secret: str) -> None:
        self._key = secret.encode()

    async def keep_fresh(self) -> None:
        """Nothing to do: it stays as it is."""
        await asyncio.Event().wait()

    async def keys(self, _header: dict[str, Any]) -> list[Any]:
        return [self._key]


class Authenticator:
    """Checks tokens, and remembers those that passed for at most a minute.

    Args:
        scope_claim: the claim that has the scopes.
    """

    def __init__(self, keys: Secret | KeySet, scope_claim: str = "scope") -> None:
        self._keys, self._scope_claim = keys, scope_claim
        self._passed: dict[str, tuple[float, Caller]] = {}

    @property
    def health(self) -> Health:
        return self._keys.health

    async def keep_fresh(self) -> None:
        """Read the keys from time to time until cancelled."""
        await self._keys.keep_fresh()

    async def caller(self, authorization: str | None) -> Caller:
        """Who sent a request.

        Args:
            authorization: the header's value, `Bearer <token>`; None if it is missing.

        Raises:
            Unauthorized: 401, no token, or one that does not pass.
            Problem: 503, the keys cannot be read.
        """
        if not authorization:
            raise Unauthorized("header_missing")
        scheme, _, token = authorization.partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not token:
            raise Unauthorized("header_malformed")
        known = self._passed.get(token)
        if known is not None and time.time() < known[0]:
            return known[1]
        if len(token) > TOKEN_MOST_BYTES:
            raise Unauthorized("token_too_long")
        claims = await self._claims(token)
        caller = _caller(claims, self._scope_claim)
        if len(self._passed) >= CACHED_TOKENS:
            self._passed.clear()
        # A remembered token is checked again after a minute at the latest, so that a withdrawn key stops working.
        self._passed[token] = (min(claims["exp"] + LEEWAY_S, time.time() + 60), caller)
        return caller

    async def _claims(self, token: str) -> dict[str, Any]:
        """The claims of a token that one of the keys has signed for us, and whose time is now.

        Raises:
            Unauthorized: 401, it is not such a token.
            Problem: 503, the keys cannot be read.
        """
        header = _header(token)
        if header.get("alg") not in self._keys.algorithms:
            raise Unauthorized("alg_not_allowed")
        keys = await self._keys.keys(header)
        try:
            claims = _verified(token, keys, self._keys.algorithms)
            if strict_object(base64url_decode(token.split(".")[1])) != claims:
                raise Unauthorized("token_malformed")
        except jwt.PyJWTError as error:
            raise Unauthorized(_code(error)) from None
        except (ValueError, TypeError, AttributeError, OverflowError, RecursionError):
            raise Unauthorized("token_malformed") from None
        return claims


def _header(token: str) -> dict[str, Any]:
    """A token's header, which nobody has vouched for.

    Raises:
        Unauthorized: 401, it cannot be read, or says that the token is something else than an access token.
    """
    try:
        header = strict_object(base64url_decode(token.split(".", 1)[0]))
    except (ValueError, RecursionError):
        raise Unauthorized("token_malformed") from None
    if "crit" in header or "b64" in header:  # extensions that must be understood, and none is
        raise Unauthorized("crit_not_supported")
    kind, kid = header.get("typ", "JWT"), header.get("kid", "")
    if not isinstance(kind, str) or kind.lower().removeprefix("application/") not in TYPES:
        raise Unauthorized("typ_not_allowed")
    if not isinstance(kid, str) or not isinstance(header.get("alg"), str):
        raise Unauthorized("token_malformed")
    return header


def _verified(token: str, keys: Sequence[Any], algorithms: Sequence[str]) -> dict[str, Any]:
    """The claims, by the first key that has signed them.

    Raises:
        jwt.PyJWTError: no key has, or the claims are not for us and now.
    """
    for last, key in enumerate(keys, 1 - len(keys)):
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=list(algorithms),
                issuer=ISSUER,
                audience=AUDIENCE,
                leeway=LEEWAY_S,
                options={"require": ["iss", "aud", "sub", "exp", "iat"]},
            )
        except jwt.InvalidSignatureError:
            if last == 0:
                raise
        else:
            return claims
    raise jwt.InvalidSignatureError


CODES: dict[type[jwt.PyJWTError], str] = {
    jwt.ExpiredSignatureError: "token_expired",
    jwt.ImmatureSignatureError: "token_not_yet_valid",
    jwt.InvalidAudienceError: "aud_mismatch",
    jwt.InvalidIssuerError: "iss_mismatch",
    jwt.InvalidIssuedAtError: "times_invalid",
    jwt.MissingRequiredClaimError: "claim_missing",
    InvalidSubjectError: "sub_invalid",
    jwt.InvalidSignatureError: "signature_invalid",
    jwt.InvalidAlgorithmError: "alg_mismatch",
    jwt.InvalidKeyError: "alg_mismatch",
}


def _code(error: jwt.PyJWTError) -> str:
    return next((code for kind, code in CODES.items() if isinstance(error, kind)), "token_malformed")


def _caller(claims: dict[str, Any], scope_claim: str) -> Caller:
    """
    Raises:
        Unauthorized: 401, a claim is not what the contract says.
    """
    if not all(_is_time(claims[name]) for name in ("iat", "exp", "nbf") if name in claims):
        raise Unauthorized("times_invalid")
    if not 0 < claims["exp"] - claims["iat"] <= LIFETIME_MOST_S:
        raise Unauthorized("lifetime_too_long")
    sub = claims["sub"]
    if not isinstance(sub, str) or not 1 <= len(sub) <= 255 or not sub.isascii() or not sub.isprintable():
        raise Unauthorized("sub_invalid")
    return Caller(sub, _scopes(claims.get(scope_claim, "")), _ids(claims, "brand_ids"), _ids(claims, "partner_ids"))


def _is_time(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < 2**53


def _scopes(value: Any) -> frozenset[str]:
    """Of text with spaces between them, or of a list, as `scp` has it; words that are no scope of ours are others'."""
    words = value.split(" ") if isinstance(value, str) else value
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise Unauthorized("scope_invalid")
    return frozenset(words).intersection(SCOPES)


def _ids(claims: dict[str, Any], name: str) -> frozenset[str]:
    value = claims.get(name, [])
    if not isinstance(value, list) or not all(isinstance(item, str) and ID.fullmatch(item) for item in value):
        raise Unauthorized("ids_invalid")
    return frozenset(value)
