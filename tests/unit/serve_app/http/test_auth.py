"""Tokens that must pass, and the many that must not."""

from __future__ import annotations

import hmac
import json
import time
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from serve_app import token
from serve_app.http.auth import SCOPES, Authenticator, Secret
from serve_app.http.jwks import KeySet
from serve_app.http.problem_details import UNAUTHORIZED, Problem, Unauthorized

SECRET = "s" * 40


def claims(**changes: Any) -> dict[str, Any]:
    now = int(time.time())
    found = {
        "iss": "partnerize",
        "aud": "paceline",
        "sub": "me",
        "iat": now,
        "exp": now + 60,
        "scope": "admin",
    } | changes
    return {name: value for name, value in found.items() if value is not None}


def signed(secret: str = SECRET, headers: dict[str, Any] | None = None, **changes: Any) -> str:
    return "Bearer " + jwt.encode(claims(**changes), secret, algorithm="HS256", headers=headers)


async def test_a_good_token_names_its_caller() -> None:
    caller = await Authenticator(Secret(SECRET)).caller(
        signed(scope="partner brand", partner_ids=["p1"], brand_ids=["b1"])
    )
    assert caller.owns_partner("p1") and not caller.owns_partner("p2")
    assert caller.owns_brand("b1") and not caller.owns_brand("b2")
    caller.require("partner")
    with pytest.raises(Problem) as refused:
        caller.require("admin")
    assert refused.value.status == 403


async def test_the_command_makes_tokens_that_pass(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PACELINE_JWT_SECRET", SECRET)
    assert token.main(["--scope", "partner", "--partner-id", "p1", "--ttl", "30m"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1
    caller = await Authenticator(Secret(SECRET)).caller("Bearer " + printed.strip())
    assert caller.partner_ids == {"p1"} and caller.scopes == {"partner"}


@pytest.mark.parametrize(
    "arguments",
    [
        ["--scope", "root"],
        ["--scope", ""],
        ["--scope", "admin", "--ttl", "25h"],
        ["--scope", "admin", "--ttl", "1"],
        ["--scope", "brand", "--brand-id", ".."],
        ["--scope", "partner", "--partner-id", "a b"],
    ],
)
def test_the_command_refuses_what_would_not_pass(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert token.main(arguments) == 2
    assert capsys.readouterr().out == ""


def test_the_commands_help_names_every_scope(capsys: pytest.CaptureFixture[str]) -> None:
    assert token.main(["--help"]) == 0
    assert set(SCOPES) <= set(capsys.readouterr().out.replace(",", " ").split())


DAY = 24 * 3600


def raw(header: dict[str, Any] | str, payload: dict[str, Any] | str, secret: str = SECRET) -> str:
    """A token with a genuine signature over what PyJWT would not write."""
    parts = [header if isinstance(header, str) else json.dumps({"alg": "HS256", "typ": "JWT"} | header)]
    parts.append(payload if isinstance(payload, str) else json.dumps(payload))
    text = b".".join(jwt.utils.base64url_encode(part.encode()) for part in parts)
    code = hmac.new(secret.encode(), text, "sha256").digest()
    return "Bearer " + (text + b"." + jwt.utils.base64url_encode(code)).decode()


async def test_a_handmade_token_passes_where_nothing_is_wrong_with_it() -> None:
    assert (await Authenticator(Secret(SECRET)).caller(raw({}, claims()))).is_admin


@pytest.mark.parametrize(
    ("header", "changes"),
    [
        ({"typ": "at+jwt"}, {}),
        ({"typ": "application/at+jwt"}, {}),
        ({"typ": "Application/AT+JWT"}, {}),
        ({"typ": "jwt"}, {}),
        ({}, {"aud": ["other", "paceline"]}),
        ({}, {"nbf": 1}),
        ({}, {"scope": ["admin", "openid"]}),
        ({}, {"scope": "openid admin  profile"}),
        ({}, {"exp": time.time() + 3600.5}),
        ({}, {"jti": "one", "act": {"sub": "other"}}),
    ],
)
async def test_what_the_standards_allow_passes(header: dict[str, Any], changes: dict[str, Any]) -> None:
    assert (await Authenticator(Secret(SECRET)).caller(raw(header, {**claims(), **changes}))).is_admin


@pytest.mark.parametrize("value", ["partner admin", ["partner", "admin"]])
async def test_scopes_are_read_from_the_claim_that_is_set(value: Any) -> None:
    authenticator = Authenticator(Secret(SECRET), "scp")
    assert (await authenticator.caller(signed(scope="brand", scp=value))).scopes == {"partner", "admin"}
    assert (await authenticator.caller(signed(scope="admin"))).scopes == frozenset(), "another claim gives nothing"


async def test_one_scope_with_a_space_is_not_two() -> None:
    assert (await Authenticator(Secret(SECRET)).caller(signed(scope=["partner admin"]))).scopes == frozenset()


BAD: list[tuple[str, Any]] = [
    ("nothing", None),
    ("another scheme", "Basic abc"),
    ("no token", "Bearer "),
    ("rubbish", "Bearer a.b.c"),
    ("another key", lambda: signed("x" * 40)),
    ("too long", "Bearer " + "a" * 9000),
    ("nested too deep", lambda: "Bearer " + jwt.utils.base64url_encode(b"[" * 5000).decode() + ".e30.x"),
    ("no algorithm", lambda: "Bearer " + jwt.encode(claims(), None, algorithm="none")),
    ("another HMAC", lambda: "Bearer " + jwt.encode(claims(), SECRET * 2, algorithm="HS512")),
    ("expired", lambda: signed(iat=int(time.time()) - 200, exp=int(time.time()) - 100)),
    ("not yet issued", lambda: signed(iat=int(time.time()) + 200, exp=int(time.time()) + 300)),
    ("for longer than a day", lambda: signed(exp=int(time.time()) + DAY + 10)),
    ("for ever", lambda: signed(exp=10**400)),
    ("times in quotes", lambda: signed(iat=str(int(time.time())), exp=str(int(time.time()) + 60))),
    ("infinite", lambda: signed(exp=float("inf"))),
    *((f"without {name}", (lambda name=name: signed(**{name: None}))) for name in ("iss", "aud", "sub", "exp", "iat")),
    ("another issuer", lambda: signed(iss="me")),
    ("another audience", lambda: signed(aud="other")),
    ("an empty subject", lambda: signed(sub="")),
    ("a subject that is no text", lambda: signed(sub=7)),
    ("a scope that is a number", lambda: signed(scope=7)),
    ("a list of scopes that are no text", lambda: signed(scope=["admin", 7])),
    ("scopes of an object", lambda: signed(scope={"admin": True})),
    ("ids that are no list", lambda: signed(scope="brand", brand_ids="b1")),
    ("ids that are none", lambda: signed(scope="brand", brand_ids=["b1", "a b"])),
    ("the id of all and none", lambda: signed(scope="brand", brand_ids=["."])),
    ("an empty id", lambda: signed(scope="partner", partner_ids=[""])),
    ("ids that are numbers", lambda: signed(scope="partner", partner_ids=[7])),
    ("an id token", lambda: signed(headers={"typ": "id+jwt"})),
    ("a type that is no text", lambda: signed(headers={"typ": 7})),
    ("a logout token", lambda: signed(headers={"typ": "logout+jwt"})),
    ("an extension that must be understood", lambda: raw({"crit": ["exp"]}, claims())),
    ("an empty list of extensions", lambda: raw({"crit": []}, claims())),
    ("a payload that is not encoded", lambda: raw({"b64": False}, claims())),
    ("a time that is true", lambda: signed(exp=True)),
    ("issued at true", lambda: raw({}, {**claims(), "iat": True, "exp": 1 + DAY // 2})),
    ("a lifetime from the dawn of time", lambda: signed(iat=0)),
    ("issued before the dawn of time", lambda: signed(iat=-1e300)),
    ("not a number", lambda: signed(exp=float("nan"))),
    ("more than a number", lambda: raw({}, json.dumps(claims())[:-1] + ', "nbf": 1e999}')),
    ("not before tomorrow", lambda: signed(nbf=int(time.time()) + 3600)),
    ("not before true", lambda: signed(nbf=True)),
    ("not before nothing", lambda: raw({}, {**claims(), "nbf": None})),
    ("two subjects", lambda: raw({}, json.dumps(claims())[:-1] + ', "sub": "another"}')),
    ("the same subject twice", lambda: raw({}, json.dumps(claims())[:-1] + ', "sub": "me"}')),
    ("two scopes, hidden below", lambda: raw({}, json.dumps(claims())[:-1] + ', "act": {"a": 1, "a": 2}}')),
    ("two algorithms", lambda: raw('{"alg": "none", "alg": "HS256"}', claims())),
    ("a list of algorithms", lambda: raw({"alg": ["HS256"]}, claims())),
    ("a kid that is no text", lambda: raw({"kid": 7}, claims())),
    ("audiences that are not us", lambda: signed(aud=["a", "b"])),
    ("an audience that is no text", lambda: signed(aud=["paceline", 7])),
    ("issuers", lambda: signed(iss=["partnerize"])),
    ("claims that are a list", lambda: raw({}, "[]")),
]


@pytest.mark.parametrize(("story", "made"), BAD, ids=[story for story, _ in BAD])
async def test_a_bad_token_is_refused_without_a_word_about_why_inside(story: str, made: Any) -> None:
    try:
        given = made() if callable(made) else made
    except (TypeError, ValueError):
        pytest.skip("this PyJWT does not even encode it")
    with pytest.raises(Unauthorized) as refused:
        await Authenticator(Secret(SECRET)).caller(given)
    assert refused.value.status == 401
    assert "WWW-Authenticate" in refused.value.headers
    said = refused.value.response("i").body.decode() + str(refused.value.headers)
    assert refused.value.code not in said and refused.value.code.isidentifier()
    assert refused.value.detail in {*UNAUTHORIZED.values(), Unauthorized("any").detail}


def key_file(path: Path, keys: dict[str, Any]) -> None:
    entries = []
    for kid, key in keys.items():
        is_rsa = isinstance(key, rsa.RSAPrivateKey)
        entry = json.loads((RSAAlgorithm if is_rsa else ECAlgorithm).to_jwk(key.public_key()))
        entries.append(entry | {"kid": kid, "alg": "RS256" if is_rsa else "ES256", "use": "sig"})
    path.write_text(json.dumps({"keys": entries}))


async def test_keys_rotate_without_a_restart_and_the_last_good_set_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve_app.http.jwks.REFETCH_S", 0.0)
    monkeypatch.setattr("serve_app.http.auth.CACHED_TOKENS", 0)
    old, new = rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP256R1())
    path = tmp_path / "jwks.json"
    key_file(path, {"old": old})
    authenticator = Authenticator(KeySet(str(path)))
    by_old = "Bearer " + jwt.encode(claims(), old, algorithm="RS256", headers={"kid": "old"})
    by_new = "Bearer " + jwt.encode(claims(), new, algorithm="ES256", headers={"kid": "new"})
    assert (await authenticator.caller(by_old)).is_admin
    with pytest.raises(Unauthorized):
        await authenticator.caller(by_new)
    key_file(path, {"old": old, "new": new})
    assert (await authenticator.caller(by_new)).is_admin
    path.write_text("half a fi")
    with pytest.raises(Unauthorized):
        await authenticator.caller("Bearer " + jwt.encode(claims(), new, algorithm="ES256", headers={"kid": "newer"}))
    assert (await authenticator.caller(by_new)).is_admin, "a broken file must not lock everybody out"


async def test_a_public_key_is_never_used_as_an_hmac_secret(tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    key_file(path, {"k": rsa.generate_private_key(65537, 2048)})
    with pytest.raises(Unauthorized):
        await Authenticator(KeySet(str(path))).caller(signed(headers={"kid": "k"}))
