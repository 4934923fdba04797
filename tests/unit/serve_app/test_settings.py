"""A bad value stops the start and is named; a typo never becomes a default."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import SecretStr

from db.brands import new_brand
from db.environment import BARE, BARE_NAMES, SECRET_FIELDS, SECTIONS, BadSetting
from db.settings import database_settings, redis_url
from db.state import State
from serve_app.settings import Settings, with_state
from tests.environment import load_in, paceline_variables
from training.settings import model_settings


def problems(environ: dict[str, str], args: dict[str, object] | None = None) -> str:
    with pytest.raises(BadSetting) as refused:
        load_in(environ, args)
    return str(refused.value)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("PACELINE_HTTP_PORT", "eighty", "should be a whole number such as 8000"),
        ("PACELINE_HTTP_PORT", "70000", "65535"),
        ("PACELINE_HTTP_PORT", "1e3", "whole number"),
        ("PACELINE_HTTP_PORT", "٨٠٨٠", "whole number"),
        ("PACELINE_HTTP_PORT", "80.5", "whole number"),
        ("PACELINE_LEDGER_LEASE_S", "5 s", "should be a number such as 5.0"),
        ("PACELINE_DATABASE_POOL_SIZE", "9" * 30, "1000000000"),
        ("PACELINE_DATABASE_URL", "postgresql://x/y", "mysql+aiomysql"),
        ("PACELINE_DATABASE_URL", "mysql+aiomysql://host", "names no database"),
        ("PACELINE_REDIS_URL", "localhost:6379", "redis://"),
        ("PACELINE_LEDGER_SHARDS", "0", "greater than or equal to 1"),
        ("PACELINE_LEDGER_LEASE_S", "inf", "finite number"),
        ("PACELINE_LEDGER_LEASE_S", "1e300", "1000000000"),
        ("PACELINE_SCORE_LOG_SAMPLE", "2", "less than or equal to 1"),
        ("PACELINE_SCORE_LOG_SAMPLE", "nan", "finite number"),
        ("PACELINE_ROAS_WINDOW", "7 days", "should look like 7d"),
        ("PACELINE_CURRENCY", "euro", "should look like EUR"),
        ("PACELINE_JWT_SECRET", "short", "32 bytes"),
        ("PACELINE_NEW_BRAND_TARGET_ROAS", "0", "greater than 0"),
        ("PACELINE_NEW_BRAND_ACTIVE", "perhaps", "should be true or false"),
        ("PACELINE_LEDGER_RESERVATION_TTL", "5", "did you mean PACELINE_LEDGER_RESERVATION_TTL_S"),
        ("paceline_http_port", "80", "did you mean PACELINE_HTTP_PORT?"),
        ("PACELINE_NEW_BRAND_PORTFOLIO_ID", "a b", "an id has 1 to 64"),
        ("PACELINE_NEW_BRAND_PORTFOLIO_ID", "..", "an id has 1 to 64"),
        ("PACELINE_NEW_BRAND_THROTTLE_ROAS", "1.5", "throttle_roas must not be above target_roas"),
        ("PACELINE_NEW_BRAND_CURRENCY", "ABC", "use an ISO 4217 code"),
        ("PACELINE_CURRENCY", "ABC", "use an ISO 4217 code"),
        ("PACELINE_HISTORY_FROM", "2500-01-01", "use a day from 2000-01-01 to today"),
        ("PACELINE_HISTORY_FROM", "1999-12-31", "use a day from 2000-01-01 to today"),
        ("PACELINE_HISTORY_FROM", "yesterday", "valid date"),
        ("PACELINE_NEW_BRAND_MAX_COST_MICROS", "0", "greater than or equal to 1"),
        ("PACELINE_NEW_BRAND_HOLDS_SHARE", "0", "greater than 0"),
        ("PACELINE_NEW_BRAND_COST_TOLERANCE", "0.5", "greater than or equal to 1"),
        ("PACELINE_NEW_BRAND_LAMBDA_FLOOR", "1.5", "less than or equal to 1"),
        ("PACELINE_HTTP", '{"port": 80}', "no such setting"),
        ("PACELINE_GENERAL_CURRENCY", "EUR", "no such setting"),
        ("PACELINE_DB_URL", "mysql+aiomysql://u:p@h/x", "did you mean PACELINE_DATABASE_URL"),
        ("PACELINE_PORT", "80", "did you mean PACELINE_HTTP_PORT?"),
        ("paceline_state", "/tmp", "did you mean PACELINE_STATE?"),
        ("PACELINE_XYZZY", "1", "docs/settings.md"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(name: str, value: str, said: str) -> None:
    (line,) = problems({name: value}).splitlines()
    assert line.startswith(name) and said in line
    assert ("no such setting" in line) or (name.endswith("SECRET")) or f"{name}={value!r}" in line


@pytest.mark.parametrize(
    ("name", "value", "section", "field", "read"),
    [
        ("PACELINE_HTTP_PORT", "", "http", "port", 8000),
        ("PACELINE_HTTP_PORT", " \t", "http", "port", 8000),
        ("PACELINE_HTTP_PORT", " 8080 ", "http", "port", 8080),
        ("PACELINE_JWKS", " ", "general", "jwks", None),
        ("PACELINE_JWKS", " keys.json\n", "general", "jwks", "keys.json"),
        ("PACELINE_REDIS_URL", " redis://r/0\n", "redis", "url", "redis://r/0"),
        ("PACELINE_LEDGER_LEASE_S", "1e1", "ledger", "lease_s", 10.0),
        ("PACELINE_NEW_BRAND_ACTIVE", "FALSE", "new_brand", "active", False),
    ],
)
def test_values_are_read_as_they_are_meant(name: str, value: str, section: str, field: str, read: object) -> None:
    assert getattr(getattr(load_in({name: value}), section), field) == read


def test_a_key_is_what_it_is_to_the_last_byte() -> None:
    assert load_in({"PACELINE_JWT_SECRET": "s" * 32 + "\n"}).jwt.secret == "s" * 32 + "\n"
    assert load_in({"PACELINE_MODEL_KEY": " k "}).model.key == SecretStr(" k ")


def test_all_problems_are_told_at_once_and_secrets_are_not() -> None:
    environ = {"PACELINE_HTTP_PORT": "x", "PACELINE_MODEL_TREES": "-1", "PACELINE_JWT_SECRET": "hunter2"}
    lines = problems(environ | {"PACELINE_NOTHING": "hunter2"}, {"serv": {}, "database": {}}).splitlines()
    assert [line.split(":")[0].split("=")[0] for line in sorted(lines)] == [
        *("PACELINE_HTTP_PORT", "PACELINE_JWT_SECRET", "PACELINE_MODEL_TREES", "PACELINE_NOTHING"),
        *("args.database", "args.serv"),
    ]
    assert "hunter2" not in str(lines)


def test_whatever_is_called_a_secret_is_never_shown() -> None:
    named = {field for _, field in Settings.variables().values() if field in ("secret", "key", "password", "token")}
    assert named == set(SECRET_FIELDS)


def test_one_family_of_tokens() -> None:
    assert "never both" in problems({"PACELINE_JWKS": "keys.json", "PACELINE_JWT_SECRET": "s" * 32})


def test_the_environment_wins_over_the_deploy_file() -> None:
    args = {"serve": {"ingress_replicas": 3, "predictor_replicas": 4}, "score": None}
    serve = load_in({"PACELINE_SERVE_INGRESS_REPLICAS": "2"}, args).serve
    assert (serve.ingress_replicas, serve.predictor_replicas) == (2, 4)
    assert "args.serv" in problems({}, {"serv": {}})
    assert "args.serve.predictors: no such setting" in problems({}, {"serve": {"predictors": 1}})
    assert "did you mean args.serve.predictor" in problems({}, {"serve": {"predictors": 1}})
    assert "args.serve.predictor='elsewhere'" in problems({}, {"serve": {"predictor": "elsewhere"}})
    for section in ("jwt", "model", "database", "new_brand"):
        assert "environment" in problems({}, {section: {}}), "what other programs read too, and secrets"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("mysql://app:hunter2@db/x", "mysql://app:***@db/x"),
        ("mysql://app:hunt@er2@db/x", "mysql://app:***@db/x"),
        ("mysql://app:hun ter2@db/x", "***@db/x"),
        ("mysql://app:hun/ter2@db/x", "mysql://app:***@db/x"),
        ("app:hunter2@db/x", "***@db/x"),
        ("postgres+asyncpg://app:hunter2@db/x", "postgres+asyncpg://app:***@db/x"),
        ("mysql://db/x?password=hunter2&charset=utf8", "mysql://db/x?password=***&charset=utf8"),
    ],
)
def test_a_password_is_not_shown(url: str, shown: str) -> None:
    assert f"PACELINE_DATABASE_URL='{shown}': " in problems({"PACELINE_DATABASE_URL": url})


def test_new_brands_and_the_embedded_defaults(tmp_path: Path) -> None:
    environ = {"PACELINE_CURRENCY": "GBP", "PACELINE_NEW_BRAND_EXPLORATION": "0.1"}
    settings = with_state(load_in(environ), State(tmp_path))
    assert (settings.new_brand.currency, settings.new_brand.exploration) == ("GBP", 0.1)
    assert settings.new_brand.daily_budget_micros == 1_000_000 * 1_000_000
    assert str(settings.database.url).endswith(f"{tmp_path}/paceline.db")
    assert load_in({"PACELINE_CURRENCY": "GBP", "PACELINE_NEW_BRAND_CURRENCY": "USD"}).new_brand.currency == "USD"


def test_programs_that_know_some_sections_read_them_alike(tmp_path: Path) -> None:
    environ = {"PACELINE_STATE": str(tmp_path), "PACELINE_CURRENCY": "GBP", "PACELINE_MODEL_TREES": "7"}
    with paceline_variables(environ):
        settings = with_state(load_in(environ), State.here())
        assert (database_settings(), redis_url()) == (settings.database, settings.redis.url)
        assert (model_settings(), new_brand()) == (settings.model, settings.new_brand)
    with paceline_variables({"PACELINE_MODEL_TREE": "7"}), pytest.raises(BadSetting, match="mean PACELINE_MODEL_TREES"):
        model_settings()


def test_the_variables_of_the_contract_exist() -> None:
    wanted = """
        DATABASE_URL REDIS_URL LEDGER_RESERVATION_TTL_S LEDGER_LEASE_S LEDGER_SHARDS SERVE_INGRESS_REPLICAS
        SERVE_PREDICTOR_REPLICAS SCORE_LOG_SAMPLE MODEL_TREES MODEL_LEAVES JWKS JWT_SECRET HTTP_HOST CURRENCY
        ROAS_WINDOW ROAS_MIN_IMPRESSIONS SCORE_IDEMPOTENCY_S
    """
    assert {f"PACELINE_{name}" for name in wanted.split()} <= set(Settings.variables())


def test_every_section_has_its_place_among_those_that_any_program_knows() -> None:
    bare = {name for name, (section, _) in Settings.variables().items() if section == BARE}
    assert (set(SECTIONS), set(BARE_NAMES)) == ({*Settings.model_fields, "test"} - {BARE}, bare)


@pytest.mark.parametrize("name", ["PACELINE_DB_URL", "PACELINE_DATABASES_URL", "PACELINE_XYZZY"])
@pytest.mark.parametrize("read", [database_settings, redis_url, model_settings, new_brand])
def test_programs_that_know_some_sections_refuse_what_no_program_knows(name: str, read: Callable[[], object]) -> None:
    with paceline_variables({name: "x", "PACELINE_TEST_MYSQL_URL": "x"}), pytest.raises(BadSetting, match=name):
        read()
