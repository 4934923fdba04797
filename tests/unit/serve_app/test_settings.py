"""A bad value stops the start and is named; a typo never becomes a default."""

from __future__ import annotations

from pathlib import Path

import pytest

from db.environment import BadSetting
from db.state import State
from serve_app.settings import load, variables, with_state


def problems(environ: dict[str, str], args: dict[str, object] | None = None) -> str:
    with pytest.raises(BadSetting) as refused:
        load(args, environ)
    return str(refused.value)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("PACELINE_HTTP_PORT", "eighty", "integer"),
        ("PACELINE_HTTP_PORT", "70000", "65535"),
        ("PACELINE_DATABASE_URL", "postgresql://x/y", "mysql+aiomysql"),
        ("PACELINE_DATABASE_URL", "mysql+aiomysql://host", "names no database"),
        ("PACELINE_REDIS_URL", "localhost:6379", "redis://"),
        ("PACELINE_LEDGER_SHARDS", "0", "greater than or equal to 1"),
        ("PACELINE_SCORE_LOG_SAMPLE", "2", "less than or equal to 1"),
        ("PACELINE_ROAS_WINDOW", "7 days", "pattern"),
        ("PACELINE_CURRENCY", "euro", "CURRENCY"),
        ("PACELINE_JWT_SECRET", "short", "32 bytes"),
        ("PACELINE_NEW_BRAND_TARGET_ROAS", "0", "greater than 0"),
        ("PACELINE_LEDGER_RESERVATION_TTL", "5", "did you mean PACELINE_LEDGER_RESERVATION_TTL_S"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(name: str, value: str, said: str) -> None:
    text = problems({name: value})
    assert name in text and said in text


def test_all_problems_are_told_at_once_and_secrets_are_not() -> None:
    text = problems({"PACELINE_HTTP_PORT": "x", "PACELINE_MODEL_TREES": "-1", "PACELINE_JWT_SECRET": "hunter2"})
    assert "HTTP_PORT" in text and "MODEL_TREES" in text and "hunter2" not in text


def test_one_family_of_tokens() -> None:
    assert "never both" in problems({"PACELINE_JWKS": "keys.json", "PACELINE_JWT_SECRET": "s" * 32})


def test_the_environment_wins_over_the_deploy_file() -> None:
    args = {"serve": {"ingress_replicas": 3, "predictor_replicas": 4}}
    serve = load(args, {"PACELINE_SERVE_INGRESS_REPLICAS": "2"}).serve
    assert (serve.ingress_replicas, serve.predictor_replicas) == (2, 4)
    assert "args.serv" in problems({}, {"serv": {}})
    assert "predictors" in problems({}, {"serve": {"predictors": 1}})
    assert "local" in problems({}, {"serve": {"predictor": "elsewhere"}})
    for section in ("jwt", "model", "database", "new_brand"):
        assert "environment" in problems({}, {section: {}}), "what other programs read too, and secrets"


def test_a_password_is_not_shown() -> None:
    text = problems({"PACELINE_DATABASE_URL": "mysql://app:hunter2@db/x", "PACELINE_MODEL_KEY": ""})
    assert "app:***@db" in text
    assert "hunter2" not in text


def test_new_brands_and_the_embedded_defaults(tmp_path: Path) -> None:
    settings = with_state(
        load({}, {"PACELINE_CURRENCY": "GBP", "PACELINE_NEW_BRAND_EXPLORATION": "0.1"}), State(tmp_path)
    )
    assert (settings.new_brand.currency, settings.new_brand.exploration) == ("GBP", 0.1)
    assert settings.new_brand.daily_budget_micros == 1_000_000 * 1_000_000
    assert str(settings.database.url).endswith(f"{tmp_path}/paceline.db")


def test_the_variables_of_the_contract_exist() -> None:
    wanted = """
        DATABASE_URL REDIS_URL LEDGER_RESERVATION_TTL_S LEDGER_LEASE_S LEDGER_SHARDS SERVE_INGRESS_REPLICAS
        SERVE_PREDICTOR_REPLICAS SCORE_LOG_SAMPLE MODEL_TREES MODEL_LEAVES JWKS JWT_SECRET HTTP_HOST CURRENCY
        ROAS_WINDOW ROAS_MIN_IMPRESSIONS SCORE_IDEMPOTENCY_S
    """
    assert {f"PACELINE_{name}" for name in wanted.split()} <= set(variables())
