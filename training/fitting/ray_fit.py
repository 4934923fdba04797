"""The night's fit on Ray Train: each worker reads its part of the rows and runs `engines.fit`, as a fit in process."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import numpy as np
import psutil

from db.files import atomic_write
from db.state import State, secret_file
from training.arrays import Singles
from training.fitting.dataset import Examples, TrainingSet
from training.fitting.engines import Boosters, FitFailed, fit
from training.progress import Say
from training.settings import ModelSettings
from training.trees.engines import LightGbmTrees, XgboostTrees, reference

FINAL, HELD_OUT = "final", "held_out"
MEET_S = 120.0
MATRIX = "matrix.npy"
NODE_LABEL = "ray.io/node-id"
"""A label that Ray gives to every node."""
REPOSITORY = Path(__file__).resolve().parents[2]


class Cluster:
    """The Ray cluster of a fit, started in the background; leaving the context stops what was started."""

    def __init__(self, state: State, say: Say) -> None:
        self._cluster = _cluster(state, say)
        self._thread = ThreadPoolExecutor(1, "ray")
        self._coming: Future[None] | None = None
        self._going: Future[None] | None = None

    def begin(self) -> None:
        """Start it in the background."""
        if self._coming is None:
            self._coming = self._thread.submit(self._cluster.__enter__)

    def wait(self) -> None:
        """Wait until it is up.

        Raises:
            FitFailed: it did not start.
        """
        self.begin()
        assert self._coming is not None
        try:
            self._coming.result()
        except Exception as error:
            cure = "see its logs, or fit without Ray: paceline night --in-process"
            raise FitFailed(f"the Ray cluster for the fit did not start ({cure}): {error}") from error

    def end(self) -> None:
        """Stop it in the background, which takes Ray ten seconds; leaving the context waits for it."""
        if self._coming is not None and self._going is None:
            self._going = self._thread.submit(self._leave)

    def _leave(self) -> None:
        if self._coming is not None and self._coming.exception() is None:
            self._cluster.__exit__(None, None, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()
        self._thread.shutdown()


def fit_on_ray(data: TrainingSet, newest: int, settings: ModelSettings, state: State, cluster: Cluster) -> Boosters:
    """What `fit_in_process` does, on `settings.workers` workers.

    Raises:
        FitFailed: the cluster did not start, or a worker failed.
    """
    asked = {FINAL: newest + 1} | ({HELD_OUT: newest} if data.before(newest).any() else {})
    examples = {name: data.examples(day, settings) for name, day in asked.items()}
    small = [name for name, found in examples.items() if len(found.target) < settings.workers]
    found = {name: fit(examples.pop(name), settings) for name in small}  # a worker needs at least one row
    if examples:
        folder = Path(tempfile.mkdtemp(prefix="fit-", dir=_scratch(state)))
        try:
            _write(data.matrix, examples, folder)
            cluster.wait()
            texts = _train(list(examples), folder, settings)
            cluster.end()
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        found |= {name: reference(settings.engine, text) for name, text in texts.items()}
    return Boosters(found[FINAL], found.get(HELD_OUT))


def _scratch(state: State) -> Path:
    """A folder that all workers can read and write: a single worker runs on this node, several need a state folder on
    storage that all nodes share."""
    folder = state.root / "scratch"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _write(matrix: Singles, examples: dict[str, Examples], folder: Path) -> None:
    """Write the matrix once, since all fits read its rows from the first on, and each fit's own columns."""
    np.save(folder / MATRIX, matrix)
    for name, found in examples.items():
        np.save(folder / f"{name}.npy", np.stack([found.target, found.weight, found.offset]))


def read_partition(folder: Path, name: str, rank: int, workers: int) -> Examples:
    """A worker's rows of a fit: every `workers`-th row, so that each worker sees every day. A single worker maps the
    file into memory instead of copying it."""
    target, weight, offset = np.load(folder / f"{name}.npy")[:, rank::workers]
    matrix = np.load(folder / MATRIX, mmap_mode="r")
    rows = matrix[: len(target)] if workers == 1 else matrix[rank::workers][: len(target)]
    return Examples(np.ascontiguousarray(rows), *(np.ascontiguousarray(part) for part in (target, weight, offset)))


def _train(names: list[str], folder: Path, settings: ModelSettings) -> dict[str, str]:
    import ray.train
    from ray.train.lightgbm import LightGBMTrainer
    from ray.train.xgboost import XGBoostTrainer

    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    scaling: dict[str, Any] = {
        "num_workers": settings.workers,
        "resources_per_worker": {"CPU": 1},  # no further core for the trainer, so that it runs on two cores
        "label_selector": _where(settings.workers, ray.get_runtime_context().get_node_id(), nodes),
    }
    trainer_of = {LightGbmTrees.engine: LightGBMTrainer, XgboostTrees.engine: XGBoostTrainer}
    trainer = trainer_of[settings.engine](
        _work,
        train_loop_config={
            "names": names,
            "folder": str(folder),
            "settings": settings.model_dump(mode="json", exclude={"key"}),
        },
        scaling_config=ray.train.ScalingConfig(**scaling),
        run_config=ray.train.RunConfig(name="fit", storage_path=str(folder / "run")),
    )
    try:
        result = trainer.fit()
    except Exception as error:
        raise FitFailed(str(error).strip().splitlines()[-1] if str(error).strip() else repr(error)) from error
    if result.error is not None or result.checkpoint is None:
        raise FitFailed(f"Ray Train finished without a model: {result.error}")
    with result.checkpoint.as_directory() as directory:
        return {name: (Path(directory) / f"{name}.txt").read_text() for name in names}


def _where(workers: int, driver: str, nodes: list[dict[str, Any]]) -> dict[str, str] | None:
    """Labels that a worker's node must have: a single worker runs on the driver's node, whose folder it reads, unless
    that node has no core for it (a head node that only manages). Several run wherever there is room.

    >>> _where(1, "a1", [{"NodeID": "a1", "Resources": {"CPU": 4.0}}])
    {'ray.io/node-id': 'a1'}
    """
    cores = {node["NodeID"]: node["Resources"].get("CPU", 0.0) for node in nodes}
    return {NODE_LABEL: driver} if workers == 1 and cores.get(driver, 0.0) >= 1 else None


def _work(config: dict[str, Any]) -> None:
    """Runs on a worker: fits on its rows, and reports once at the end."""
    import ray.train
    from ray.train.lightgbm import get_network_params

    settings = ModelSettings.model_validate(config["settings"])
    folder, rank = Path(config["folder"]), ray.train.get_context().get_world_rank()
    meets = settings.workers > 1 and settings.engine == LightGbmTrees.engine  # Ray connects XGBoost's workers itself
    network = get_network_params() if meets else {}
    with tempfile.TemporaryDirectory() as directory:
        for name in config["names"]:
            partition = read_partition(folder, name, rank, settings.workers)
            if network:
                network = _meet(folder, name, rank, network)
            (Path(directory) / f"{name}.txt").write_text(fit(partition, settings, threads=1, network=network).text)
        made = ray.train.Checkpoint.from_directory(directory) if rank == 0 else None
        ray.train.report({"trees": settings.trees}, checkpoint=made)


def _meet(folder: Path, name: str, rank: int, network: dict[str, Any]) -> dict[str, Any]:
    """LightGBM's network parameters for one fit. A port is not free again at once after a fit, so each fit has its own:
    every worker writes its address into the folder and waits for those of the others.

    Raises:
        TimeoutError: some worker did not write its address within MEET_S.
    """
    machines = network["machines"].split(",")
    host = machines[rank].rpartition(":")[0]
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind(("", 0))
        port = probe.getsockname()[1]
    atomic_write(folder / f"{name}-{rank}.address", f"{host}:{port}")
    until = time.monotonic() + MEET_S
    others = [folder / f"{name}-{other}.address" for other in range(len(machines))]
    while not all(other.exists() for other in others):
        if time.monotonic() > until:
            missing = sum(not other.exists() for other in others)
            raise TimeoutError(
                f"{missing} of {len(machines)} workers did not join the fit {name!r} within {MEET_S:g} s; "
                "do all nodes share the storage of PACELINE_STATE?"
            )
        time.sleep(0.05)
    return network | {
        "machines": ",".join(other.read_text() for other in others),
        "local_listen_port": port,
        "tree_learner": "data",  # without it every worker would fit its own rows only
        "pre_partition": True,
    }


@contextmanager
def _cluster(state: State, say: Say) -> Iterator[None]:
    """Connects to Ray: to a job's own cluster, to that of the system that runs on this state folder, or to a local one
    that is started for the fit."""
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if "RAY_AUTH_TOKEN" not in os.environ and "RAY_AUTH_TOKEN_PATH" not in os.environ:
        secret_file(state.ray_token)
        os.environ["RAY_AUTH_TOKEN_PATH"] = str(state.ray_token)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import ray  # after the variables above: it reads them on import

    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS") or _running_address(state)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address:
        say(f"  fitting on the Ray cluster at {address}")
        environment = {"env_vars": {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}}
        in_job = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ  # the job has brought its own environment
        ray.init(address=address, runtime_env=None if in_job else environment, **quiet)
    else:
        say("  no Ray cluster is running on this state folder: starting a local one for the fit")
        inherited = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(REPOSITORY), inherited]))
        ray.init(address="local", include_dashboard=False, _node_ip_address="127.0.0.1", **quiet)
    try:
        yield
    finally:
        ray.shutdown()


def _running_address(state: State) -> str | None:
    """Ray's address of the system that runs on this folder; None if none does (`run.json` may be of a killed one)."""
    running = state.running()
    address, pid = running.get("ray_address"), running.get("pid")
    if not isinstance(address, str) or not isinstance(pid, int) or not psutil.pid_exists(pid):
        return None
    return address
