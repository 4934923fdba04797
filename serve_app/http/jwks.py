"""The public keys that tokens are checked with: a JSON Web Key Set (RFC 7517), read from a file or a URL.

Which key is for which algorithm is decided here, once, when the set is read; a token only names one of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import time
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt import PyJWK

from db.environment import without_password
from db.errors import in_a_line
from serve_app.http.problem_details import Problem, Unauthorized
from serve_app.http.strict_json import strict_object

logger = logging.getLogger("paceline.auth")

ALGORITHM_OF = {("RSA", None): "RS256", ("EC", "P-256"): "ES256", ("OKP", "Ed25519"): "EdDSA"}
"""(kty, crv) → the one algorithm that such a key is used for."""
ASYMMETRIC = tuple(ALGORITHM_OF.values())
PUBLIC = {"RSA": ("kty", "n", "e"), "EC": ("kty", "crv", "x", "y"), "OKP": ("kty", "crv", "x")}
PRIVATE = ("d", "p", "q", "dp", "dq", "qi", "oth", "k")
RSA_LEAST_BITS, RSA_MOST_BITS = 2048, 8192
SET_MOST_BYTES, SET_MOST_KEYS = 256 * 1024, 100
TRIED_MOST = 8
"""Keys that are tried for one token, so that a bad one costs no more."""
REDIRECTS_MOST, FETCH_S = 3, 5.0
REFRESH_S, RETRY_S = 300.0, 30.0
"""How often the set is read while that succeeds, and while it fails."""
REFETCH_S = 10.0
"""A token with an unknown key makes it be read at once, but not more often than this."""
PATIENCE_S = 1.0
"""How long a request with an unknown key waits for that."""


class Health(NamedTuple):
    """What /metrics says of the keys."""

    age_s: float  # since the set in use was read; NaN: none has been
    is_failing: bool  # the last attempt to read it failed


NO_KEY_SET = Health(float("nan"), False)


class Key(NamedTuple):
    kid: str | None
    algorithm: str
    key: Any


class KeySet:
    """The keys in use. Where the set cannot be read, or holds no usable key, the last good one stays in use."""

    algorithms = ASYMMETRIC

    def __init__(self, source: str) -> None:
        self._source = source
        self._keys: tuple[Key, ...] = ()
        self._tried_at = self._read_at = float("-inf")
        self._reading: asyncio.Task[None] | None = None
        self._is_failing = False

    @property
    def health(self) -> Health:
        return Health(time.monotonic() - self._read_at if self._keys else float("nan"), self._is_failing)

    async def keep_fresh(self) -> None:
        """Read the set again and again until cancelled, so that no request has to wait for it."""
        while True:
            await self._read_again()
            await asyncio.sleep(RETRY_S if self._is_failing else REFRESH_S)

    async def keys(self, header: dict[str, Any]) -> list[Any]:
        """The public keys that a token with this header may be signed with; of one `kid` there may be several.

        Raises:
            Unauthorized: 401, there is none.
            Problem: 503, no key set could be read since this replica started.
        """
        kid = header.get("kid")
        if not self._knows(kid):
            if time.monotonic() - self._tried_at >= REFETCH_S or self._reading is not None:
                await self._read_again(None if not self._keys else PATIENCE_S)
        elif time.monotonic() - self._tried_at >= REFRESH_S and self._reading is None:
            self._begin_reading()  # in case nobody keeps it fresh; this request does not wait
        if not self._keys:
            detail = "the server cannot read the public keys that tokens are checked with; try again in 10 s"
            raise Problem(503, detail, "keys-unavailable", {"Retry-After": "10"})
        named = [key for key in self._keys if kid is None or key.kid == kid]
        if not named:
            raise Unauthorized("kid_unknown")
        fitting = [key.key for key in named if key.algorithm == header.get("alg")]
        if not fitting:
            raise Unauthorized("alg_mismatch")
        if len(fitting) > TRIED_MOST:
            raise Unauthorized("kid_missing" if kid is None else "kid_ambiguous")
        return fitting

    def _knows(self, kid: str | None) -> bool:
        return any(kid is None or key.kid == kid for key in self._keys)

    def _begin_reading(self) -> asyncio.Task[None]:
        if self._reading is None:
            # In a context of its own, because Serve cancels the tasks of a request whose client has left.
            self._reading = asyncio.get_running_loop().create_task(self._read(), context=contextvars.Context())
        return self._reading

    async def _read_again(self, within_s: float | None = None) -> None:
        """Wait until the set has been read once more, all who ask for the same one; for `within_s` seconds at most."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await asyncio.shield(self._begin_reading())

    async def _read(self) -> None:
        self._tried_at = time.monotonic()
        try:
            self._keys = usable_keys(await self._content())
            self._read_at, self._is_failing = time.monotonic(), False
        except (OSError, ValueError, RecursionError, httpx.HTTPError, httpx.InvalidURL) as error:
            self._is_failing = True
            known = f"the last {len(self._keys)} keys stay in use" if self._keys else "requests get 503 until it can"
            source, reason = without_password(self._source), without_password(in_a_line(error))
            logger.error("cannot read the token keys from PACELINE_JWKS=%s, %s: %s", source, known, reason)
        finally:
            self._reading = None

    async def _content(self) -> bytes:
        if not self._source.startswith(("http://", "https://")):
            return await asyncio.to_thread(_file, Path(self._source))
        async with asyncio.timeout(FETCH_S), httpx.AsyncClient(timeout=FETCH_S) as client:
            return await _fetched(client, httpx.URL(self._source))


def usable_keys(content: bytes) -> tuple[Key, ...]:
    """The keys of a set that tokens may be checked with; the others are left out, and a line in the log says why.

    Raises:
        ValueError: it is no key set, or none of its keys can be used.
    """
    entries = strict_object(content).get("keys")
    if not isinstance(entries, list):
        raise ValueError("it is no key set: a list of keys is expected under `keys`")
    if len(entries) > SET_MOST_KEYS:
        raise ValueError(f"it holds {len(entries)} keys, more than {SET_MOST_KEYS}")
    keys, unused = [], []
    for number, entry in enumerate(entries):
        try:
            keys.append(_key(entry))
        except ValueError as error:
            kid = entry.get("kid") if isinstance(entry, dict) else None
            unused.append(f"{str(kid)[:64]!r}: {error}" if kid else f"number {number}: {error}")
    if not keys:
        raise ValueError(f"it holds no usable key for {', '.join(ASYMMETRIC)}" + "".join(f"; {one}" for one in unused))
    if unused:
        logger.info("keys of PACELINE_JWKS that are not used: %s", "; ".join(unused))
    return tuple(keys)


def _key(entry: Any) -> Key:
    """Raises: ValueError, tokens must not be checked with it."""
    if not isinstance(entry, dict):
        raise ValueError("it is no object")
    kty, kid = entry.get("kty"), entry.get("kid")
    if kty not in PUBLIC:
        raise ValueError("its kty is not RSA, EC or OKP")
    if kid is not None and not isinstance(kid, str):
        raise ValueError("its kid is no text")
    if entry.get("use", "sig") != "sig":
        raise ValueError("its use is not sig")
    if "key_ops" in entry and not (isinstance(entry["key_ops"], list) and "verify" in entry["key_ops"]):
        raise ValueError("its key_ops do not have verify")
    if any(name in entry for name in PRIVATE):
        raise ValueError("its private part is published: whoever reads it can sign tokens")
    algorithm = ALGORITHM_OF.get((kty, None if kty == "RSA" else entry.get("crv")))
    if algorithm is None:
        raise ValueError("its crv is not P-256 or Ed25519")
    if entry.get("alg", algorithm) != algorithm:
        raise ValueError(f"its alg is not {algorithm}, the one for its kty and crv")
    try:
        key = PyJWK({name: entry.get(name) for name in PUBLIC[kty]}, algorithm).key
    except (jwt.PyJWTError, ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"it cannot be read: {in_a_line(error)}") from None
    if isinstance(key, RSAPublicKey) and not RSA_LEAST_BITS <= key.key_size <= RSA_MOST_BITS:
        raise ValueError(f"it has {key.key_size} bits, not {RSA_LEAST_BITS} to {RSA_MOST_BITS}")
    return Key(kid, algorithm, key)


def _file(path: Path) -> bytes:
    with path.open("rb") as file:
        content = file.read(SET_MOST_BYTES + 1)
    if len(content) > SET_MOST_BYTES:
        raise ValueError(f"it is larger than {SET_MOST_BYTES} bytes")
    return content


async def _fetched(client: httpx.AsyncClient, url: httpx.URL) -> bytes:
    """A URL's content, after redirects within its scheme, host and port.

    Raises:
        ValueError: a redirect leads elsewhere, or the content is too large.
        httpx.HTTPError: it cannot be fetched.
    """
    for _ in range(REDIRECTS_MOST + 1):
        async with client.stream("GET", url, headers={"Accept": "application/jwk-set+json, application/json"}) as got:
            if got.next_request is None:
                got.raise_for_status()
                content = bytearray()
                async for piece in got.aiter_bytes():
                    content += piece
                    if len(content) > SET_MOST_BYTES:
                        raise ValueError(f"it is larger than {SET_MOST_BYTES} bytes")
                return bytes(content)
            target = got.next_request.url
        if (target.scheme, target.host, target.port) != (url.scheme, url.host, url.port):
            raise ValueError(f"it redirects to another host, {target.scheme}://{target.netloc.decode()}")
        url = target
    raise ValueError(f"it redirects more than {REDIRECTS_MOST} times")
