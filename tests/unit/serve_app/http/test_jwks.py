"""Key sets: which keys are used for what, and where they are read from. A real HTTP server, real signatures."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from serve_app.http import jwks
from serve_app.http.auth import Authenticator
from serve_app.http.jwks import KeySet, usable_keys
from serve_app.http.problem_details import Problem, Unauthorized

RSA, OTHER_RSA = rsa.generate_private_key(65537, 2048), rsa.generate_private_key(65537, 2048)
EC, ED = ec.generate_private_key(ec.SECP256R1()), ed25519.Ed25519PrivateKey.generate()
SMALL = rsa.generate_private_key(65537, 1024)


def jwk(key: Any, **changes: Any) -> dict[str, Any]:
    """The public part, named `k`; a change to None leaves a field out."""
    algorithm: Any = OKPAlgorithm
    if isinstance(key, (rsa.RSAPrivateKey, ec.EllipticCurvePrivateKey)):
        algorithm = RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else ECAlgorithm
    found = json.loads(algorithm.to_jwk(key.public_key()))
    found.pop("key_ops", None)
    return {name: value for name, value in (found | {"kid": "k"} | changes).items() if value is not None}


def signed(key: Any, algorithm: str, kid: str | None = "k") -> str:
    now = int(time.time())
    claims = {"iss": "partnerize", "aud": "paceline", "sub": "me", "iat": now, "exp": now + 60, "scope": "admin"}
    return "Bearer " + jwt.encode(claims, key, algorithm=algorithm, headers={"kid": kid} if kid is not None else None)


class Source:
    """A file with a key set."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def holds(self, *keys: Any) -> Authenticator:
        self.path.write_text(json.dumps({"keys": keys}))
        return Authenticator(KeySet(str(self.path)))


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return Source(tmp_path / "jwks.json")


async def code(authenticator: Authenticator, bearer: str) -> str:
    """Why it is refused; empty: it passes."""
    try:
        await authenticator.caller(bearer)
    except Unauthorized as refused:
        return refused.code
    return ""


@pytest.mark.parametrize("alg", [True, False], ids=["with alg", "without alg"])
@pytest.mark.parametrize(("key", "algorithm"), [(RSA, "RS256"), (EC, "ES256"), (ED, "EdDSA")], ids=["RSA", "EC", "OKP"])
async def test_each_key_checks_its_algorithm(source: Source, key: Any, algorithm: str, alg: bool) -> None:
    for more in ({}, {"use": "sig"}, {"key_ops": ["verify"]}, {"key_ops": ["sign", "verify"], "use": "sig"}):
        held = source.holds(jwk(key, alg=algorithm if alg else None, **more))
        assert await code(held, signed(key, algorithm)) == ""


BAD: dict[str, tuple[Any, str, dict[str, Any]]] = {
    "for encryption": (RSA, "RS256", {"use": "enc"}),
    "for another use": (RSA, "RS256", {"use": "SIG"}),
    "for signing alone": (RSA, "RS256", {"key_ops": ["sign"]}),
    "for no operation": (RSA, "RS256", {"key_ops": []}),
    "operations that are no list": (RSA, "RS256", {"key_ops": "verify"}),
    "of another algorithm": (RSA, "RS256", {"alg": "RS512"}),
    "of a family that it is not": (RSA, "RS256", {"alg": "ES256"}),
    "of a secret's algorithm": (RSA, "RS256", {"alg": "HS256"}),
    "for encrypting keys": (RSA, "RS256", {"alg": "RSA-OAEP"}),
    "of 1024 bits": (SMALL, "RS256", {}),
    "of another type": (RSA, "RS256", {"kty": "EC"}),
    "with its private part": (RSA, "RS256", {"d": "AQAB"}),
    "with a kid that is no text": (RSA, "RS256", {"kid": 7}),
    "without its number": (RSA, "RS256", {"n": None}),
    "with an exponent of one": (RSA, "RS256", {"e": "AQ"}),
    "without its curve": (EC, "ES256", {"crv": None}),
    "of another curve": (EC, "ES256", {"crv": "P-384"}),
    "not on its curve": (EC, "ES256", {"x": "AAAA" * 10 + "AAA"}),
}


@pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")
@pytest.mark.parametrize("story", BAD)
async def test_what_a_key_is_not_for_is_respected(source: Source, story: str) -> None:
    key, algorithm, changes = BAD[story]
    held = source.holds(jwk(key, **changes), jwk(OTHER_RSA, kid="good"))
    assert await code(held, signed(key, algorithm)) == "kid_unknown"
    assert await code(held, signed(OTHER_RSA, "RS256", "good")) == "", "the others of the set are used"


async def test_curves_and_algorithms_that_were_not_agreed_are_refused(source: Source) -> None:
    p384, other = ec.generate_private_key(ec.SECP384R1()), ed448.Ed448PrivateKey.generate()
    k256 = ec.generate_private_key(ec.SECP256K1())
    held = source.holds(jwk(p384), jwk(other), jwk(k256), jwk(p384, alg="ES256"), jwk(RSA, kid="good"))
    assert await code(held, signed(p384, "ES384")) == "alg_not_allowed"
    assert await code(held, signed(other, "EdDSA")) == "kid_unknown"
    assert await code(held, signed(k256, "ES256K")) == "alg_not_allowed"
    assert await code(held, signed(RSA, "PS256", "good")) == "alg_not_allowed"
    assert await code(held, signed(RSA, "RS512", "good")) == "alg_not_allowed"


async def test_a_symmetric_key_of_a_set_signs_nothing(source: Source) -> None:
    secret = "s" * 43
    held = source.holds({"kty": "oct", "kid": "k", "k": secret, "alg": "HS256"}, jwk(RSA, kid="good"))
    assert await code(held, signed(jwt.utils.base64url_decode(secret + "="), "HS256")) == "alg_not_allowed"


async def test_several_keys_of_one_kid_are_all_tried(source: Source) -> None:
    held = source.holds(jwk(OTHER_RSA), jwk(EC), jwk(RSA), jwk(ED, use="enc"))
    assert await code(held, signed(RSA, "RS256")) == ""
    assert await code(held, signed(OTHER_RSA, "RS256")) == ""
    assert await code(held, signed(EC, "ES256")) == ""
    stranger = rsa.generate_private_key(65537, 2048)
    assert await code(held, signed(stranger, "RS256")) == "signature_invalid"
    assert await code(held, signed(ED, "EdDSA")) == "alg_mismatch"


async def test_a_token_without_kid_is_tried_with_the_few_that_fit(source: Source) -> None:
    held = source.holds(jwk(RSA, kid="a"), jwk(EC, kid="b"), jwk(OTHER_RSA, kid=None))
    for key, algorithm in ((RSA, "RS256"), (EC, "ES256"), (OTHER_RSA, "RS256")):
        assert await code(held, signed(key, algorithm, None)) == ""
    many = source.holds(*(jwk(RSA, kid=f"k-{number}") for number in range(jwks.TRIED_MOST + 1)))
    assert await code(many, signed(RSA, "RS256", None)) == "kid_missing"
    assert await code(many, signed(RSA, "RS256", "k-3")) == ""
    same = source.holds(*(jwk(RSA) for _ in range(jwks.TRIED_MOST + 1)))
    assert await code(same, signed(RSA, "RS256")) == "kid_ambiguous"


UNUSABLE = {
    "empty": json.dumps({"keys": []}),
    "without a list": json.dumps({"keys": {"k": jwk(RSA)}}),
    "no set": "[]",
    "not even JSON": "<html>",
    "of encryption keys": json.dumps({"keys": [jwk(RSA, use="enc")]}),
    "of things that are no keys": json.dumps({"keys": [None, 7, "k", []]}),
    "of two lists": '{"keys": [], "keys": [' + json.dumps(jwk(RSA)) + "]}",
    "too deep": "[" * 100_000,
    "too large": json.dumps({"keys": [jwk(RSA)], "more": "x" * jwks.SET_MOST_BYTES}),
    "of too many": json.dumps({"keys": [jwk(ED)] * (jwks.SET_MOST_KEYS + 1)}),
}


@pytest.mark.parametrize("story", UNUSABLE)
async def test_an_unusable_set_is_distrusted_and_the_last_good_one_stays(
    source: Source, monkeypatch: pytest.MonkeyPatch, story: str
) -> None:
    monkeypatch.setattr(jwks, "REFETCH_S", 0.0)
    held = source.holds(jwk(RSA))
    assert await code(held, signed(RSA, "RS256")) == "" and not held.health.is_failing
    source.path.write_text(UNUSABLE[story])
    assert await code(held, signed(EC, "ES256", "new")) == "kid_unknown"
    assert held.health.is_failing and held.health.age_s >= 0
    assert await code(held, signed(RSA, "RS256")) == ""
    source.path.write_text(json.dumps({"keys": [jwk(RSA), jwk(EC, kid="new")]}))
    assert await code(held, signed(EC, "ES256", "new")) == "" and not held.health.is_failing
    fresh = Authenticator(KeySet(str(source.path)))
    source.path.write_text(UNUSABLE[story])
    with pytest.raises(Problem) as refused:
        await fresh.caller(signed(RSA, "RS256"))
    assert refused.value.status == 503 and fresh.health.is_failing


async def test_a_withdrawn_key_is_withdrawn(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jwks, "REFETCH_S", 0.0)
    held = source.holds(jwk(RSA, kid="old"), jwk(EC, kid="new"))
    assert await code(held, signed(RSA, "RS256", "old")) == ""
    source.path.write_text(json.dumps({"keys": [jwk(EC, kid="new")]}))
    await code(held, signed(RSA, "RS256", "unknown"))
    held._passed.clear()  # as a minute does
    assert await code(held, signed(RSA, "RS256", "old")) == "kid_unknown"


def test_what_is_not_used_is_named_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "paceline.auth")
    usable_keys(json.dumps({"keys": [jwk(RSA), jwk(EC, use="enc", kid="e")]}).encode())
    assert "'e': its use is not sig" in caplog.text


Reply = Callable[[str], bytes | tuple[int, dict[str, str]]]


class Server:
    """A small HTTP server: what it answers is a function of the path."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self._news = asyncio.Condition()
        self.reply: Reply = lambda _: b""
        self.hold = asyncio.Event()
        self.hold.set()
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        path = head.split(" ")[1]
        self.asked.append(path)
        async with self._news:
            self._news.notify_all()
        await self.hold.wait()
        found = self.reply(path)
        status, headers, content = (*found, b"") if isinstance(found, tuple) else (200, {}, found)
        lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(content)}", "Connection: close"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + content)
        await writer.drain()
        writer.close()

    async def asked_times(self, number: int) -> None:
        async with self._news:
            await self._news.wait_for(lambda: len(self.asked) >= number)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/jwks"


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    found = Server()
    listening = await asyncio.start_server(found.serve, "127.0.0.1", 0)
    found.port = listening.sockets[0].getsockname()[1]
    yield found
    found.hold.set()
    listening.close()
    await listening.wait_closed()


SET = json.dumps({"keys": [jwk(RSA)]}).encode()


async def test_a_redirect_within_the_host_is_followed(server: Server) -> None:
    server.reply = lambda path: (302, {"Location": "/moved"}) if path == "/jwks" else SET
    assert await code(Authenticator(KeySet(server.url)), signed(RSA, "RS256")) == ""
    assert server.asked == ["/jwks", "/moved"]


@pytest.mark.parametrize(
    "target",
    ["http://localhost:{port}/moved", "https://127.0.0.1:{port}/moved", "http://127.0.0.1:9/moved", "//localhost/x"],
)
async def test_a_redirect_elsewhere_is_not_followed(server: Server, target: str) -> None:
    """Even where the same server answers there."""
    location = target.format(port=server.port)
    server.reply = lambda path: (302, {"Location": location}) if path == "/jwks" else SET
    with pytest.raises(Problem, match="503"):
        await Authenticator(KeySet(server.url)).caller(signed(RSA, "RS256"))
    assert server.asked == ["/jwks"]


async def test_redirects_end(server: Server) -> None:
    server.reply = lambda _: (307, {"Location": "/jwks"})
    with pytest.raises(Problem, match="503"):
        await Authenticator(KeySet(server.url)).caller(signed(RSA, "RS256"))
    assert len(server.asked) == jwks.REDIRECTS_MOST + 1


@pytest.mark.parametrize(
    "reply",
    [b" " * jwks.SET_MOST_BYTES + SET, (404, {}), (500, {}), (204, {}), (302, {})],
    ids=["large", "404", "500", "204", "302"],
)
async def test_what_is_no_set_is_not_read(server: Server, reply: Any) -> None:
    server.reply = lambda _: reply
    held = Authenticator(KeySet(server.url))
    with pytest.raises(Problem, match="503"):
        await held.caller(signed(RSA, "RS256"))
    assert held.health.is_failing


async def test_unknown_keys_do_not_hammer_the_host(server: Server) -> None:
    """One caller sends 500 tokens, each with another kid: the set is read once."""
    server.reply = lambda _: SET
    held = Authenticator(KeySet(server.url))
    assert await code(held, signed(RSA, "RS256")) == ""
    codes = await asyncio.gather(*(code(held, signed(ED, "EdDSA", f"kid-{number}")) for number in range(500)))
    assert set(codes) == {"kid_unknown"}
    assert len(server.asked) == 1


async def test_requests_share_one_reading_and_one_that_leaves_does_not_end_it(server: Server) -> None:
    server.reply = lambda _: SET
    server.hold.clear()
    held = Authenticator(KeySet(server.url))
    waiting = [asyncio.create_task(held.caller(signed(RSA, "RS256"))) for _ in range(20)]
    await server.asked_times(1)
    waiting[0].cancel()
    await asyncio.sleep(0)
    server.hold.set()
    found = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(found[0], asyncio.CancelledError)
    assert all(not isinstance(one, BaseException) and one.is_admin for one in found[1:])
    assert len(server.asked) == 1


async def test_known_keys_do_not_wait_for_a_silent_host(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The set is old, and its host does not answer: requests go on with the keys that are there."""
    server.reply = lambda _: SET
    held = Authenticator(KeySet(server.url))
    assert await code(held, signed(RSA, "RS256")) == ""
    monkeypatch.setattr(jwks, "REFRESH_S", 0.0)
    server.hold.clear()
    for _ in range(3):
        held._passed.clear()  # as a minute does
        assert await code(held, signed(RSA, "RS256")) == ""
        await asyncio.sleep(0)
    await server.asked_times(2)
    assert len(server.asked) == 2, "and one reading goes on beside them"


async def test_keys_are_kept_fresh_without_requests(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jwks, "REFRESH_S", 0.01)
    monkeypatch.setattr(jwks, "RETRY_S", 0.01)
    replies = iter([b"", SET])
    server.reply = lambda _: next(replies, SET)
    held = Authenticator(KeySet(server.url))
    keeping = asyncio.create_task(held.keep_fresh())
    await server.asked_times(4)
    assert not held.health.is_failing
    keeping.cancel()
