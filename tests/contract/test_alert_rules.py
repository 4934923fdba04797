"""Prometheus itself judges the alerts: their syntax, and a play of samples for each in rules_test.yml."""

import subprocess
from pathlib import Path

import pytest

from tests.servers.prometheus import promtool

PROMETHEUS = Path(__file__).parents[2] / "deploy" / "prometheus"


@pytest.mark.parametrize(
    "command",
    [
        ("check", "rules", "rules.yml"),
        ("check", "config", "--syntax-only", "prometheus.yml"),
        ("test", "rules", "rules_test.yml"),
    ],
    ids=" ".join,
)
def test_prometheus_accepts_the_alerts(command: tuple[str, ...]) -> None:
    done = subprocess.run([promtool(), *command], cwd=PROMETHEUS, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_played_through() -> None:
    rules = (PROMETHEUS / "rules.yml").read_text()
    played = (PROMETHEUS / "rules_test.yml").read_text()
    alerts = [line.split(":")[1].strip() for line in rules.splitlines() if "- alert:" in line]
    assert "BrandRoasBelowTarget" in alerts
    assert [alert for alert in alerts if f"alertname: {alert}\n" not in played] == []
