"""cluster.yaml is what Ray's launcher accepts, and what it starts is closed to strangers."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).parents[3]
CLUSTER_YAML = ROOT / "cluster.yaml"
STARTS = ["head_start_ray_commands", "worker_start_ray_commands"]
COMMANDS = ["setup_commands", "head_setup_commands", "worker_setup_commands", *STARTS]


@pytest.fixture
def cluster() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(CLUSTER_YAML.read_text())
    return loaded


def test_ray_accepts_it(cluster: dict[str, Any]) -> None:
    prepared = prepare_config(cluster)
    validate_config(prepared)
    assert prepared["available_node_types"]["worker"]["min_workers"] >= 1


def test_ray_accepts_the_alternative_in_its_comments(cluster: dict[str, Any]) -> None:
    alternative = yaml.safe_load("\n".join(re.findall(r"^#\| (.*)$", CLUSTER_YAML.read_text(), re.MULTILINE)))
    del cluster["head_node_type"], cluster["available_node_types"]
    prepared = prepare_config({**cluster, **alternative})
    validate_config(prepared)
    assert prepared["max_workers"] <= len(alternative["provider"]["worker_ips"])


@pytest.mark.parametrize("start", STARTS)
def test_every_node_starts_with_a_token_and_the_fast_path(cluster: dict[str, Any], start: str) -> None:
    *_, command = cluster[start]
    assert "RAY_AUTH_MODE=token" in command
    assert "RAY_SERVE_ENABLE_HA_PROXY=1" in command
    assert "RAY_SERVE_THROUGHPUT_OPTIMIZED=1" in command
    assert cluster["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"


def test_the_dashboard_listens_on_loopback(cluster: dict[str, Any]) -> None:
    *_, command = cluster["head_start_ray_commands"]
    assert "--dashboard-host=127.0.0.1" in command


def test_addresses_and_passwords_come_from_outside_the_repository(cluster: dict[str, Any]) -> None:
    (source,) = [local for remote, local in cluster["file_mounts"].items() if remote.endswith(".env")]
    assert source.startswith("~/")
    assert not re.search(r"PACELINE_\w+=", yaml.safe_dump(cluster))


@pytest.mark.parametrize("name", ["PACELINE_MODEL_KEY", "PACELINE_STATE"])
@pytest.mark.parametrize("file", ["cluster.yaml", ".env.example"])
def test_nodes_are_told_the_key_and_the_folder_that_they_share(name: str, file: str) -> None:
    (value,) = re.findall(rf"^(?:#   )?{name}=(.*)$", (ROOT / file).read_text(), re.MULTILINE)
    assert value and (name != "PACELINE_STATE" or Path(value).is_absolute())


def test_it_points_at_nothing_that_is_not_there() -> None:
    for path in re.findall(r"\b(?:deploy|tools)/[\w./-]*\w", CLUSTER_YAML.read_text()):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("section", COMMANDS)
def test_the_shell_understands_every_command(cluster: dict[str, Any], section: str) -> None:
    for command in cluster[section]:
        done = subprocess.run(["bash", "-n", "-c", command], capture_output=True, text=True)
        assert done.returncode == 0, f"{command}\n{done.stderr}"
