"""Finds a shard's detached Ray actor by name, starts it if there is none, and replaces it if it is silent."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Awaitable
from typing import Any, TypeVar

from db.errors import in_a_line
from db.settings import DatabaseSettings
from ledger.domain.errors import LedgerUnavailable
from ledger.domain.settings import LedgerSettings, RoasSettings
from ledger.runtime.generations import (
    NAMESPACE,
    Identity,
    Reached,
    Silent,
    agree,
    digest_of,
    living_generations,
    logger,
    name_of,
)
from ledger.runtime.protocol import LedgerCalls, remote

T = TypeVar("T")
BORN_AT = time.time()
"""About when this process began, in seconds since 1970."""


def connect(
    database: DatabaseSettings,
    redis_url: str | None,
    ledger_settings: LedgerSettings | None = None,
    roas_settings: RoasSettings | None = None,
    shard: int = 0,
    decided_at: float | None = None,
) -> Reached[Any]:
    """A shard's ledger; starts the actor if there is none. Blocks; Ray must be initialised.

    An actor that runs with older settings, or does not answer, is replaced by the next generation. All replicas may
    call this at once: they get the same actor.

    Args:
        decided_at: when these settings were decided, in seconds since 1970; None: when this process began. In a rolling
            deployment replicas with old settings began before those with new ones, so the new settings win.

    Raises:
        LedgerUnavailable: there is an actor, but it is not ready; try again.
    """
    settings = database, redis_url, ledger_settings or LedgerSettings(), roas_settings or RoasSettings(), shard
    return _connect(settings, decided_at, 0)


def replace(
    database: DatabaseSettings,
    redis_url: str | None,
    ledger_settings: LedgerSettings | None = None,
    roas_settings: RoasSettings | None = None,
    shard: int = 0,
    decided_at: float | None = None,
    *,
    seen: Reached[Any] | int,
) -> Reached[Any]:
    """`connect`, but to a younger generation than `seen`, which has not answered for `LedgerSettings.silence_s`.

    It is started if no other replica has started it: replicas that give up the same actor get the same successor. The
    silent actor is killed; where that fails, the database refuses its writes.

    Raises:
        LedgerUnavailable: the successor is not ready; try again, with the same `seen`.
    """
    settings = database, redis_url, ledger_settings or LedgerSettings(), roas_settings or RoasSettings(), shard
    return _connect(settings, decided_at, seen if isinstance(seen, int) else seen.generation)


ActorSettings = tuple[DatabaseSettings, str | None, LedgerSettings, RoasSettings, int]


def _connect(settings: ActorSettings, decided_at: float | None, seen: int) -> Reached[Any]:
    wanted = Identity(digest_of(*settings), BORN_AT if decided_at is None else decided_at)
    reached = agree(wanted, _RayGenerations(settings, wanted.decided_at), seen, shard=settings[-1])
    if reached.identity.digest == wanted.digest:
        _retire_beyond(settings[2].shards)
    return reached


class _RayGenerations:
    """One shard's actors on Ray, found by name."""

    def __init__(self, settings: ActorSettings, decided_at: float) -> None:
        self._settings, self._decided_at, self._shard = settings, decided_at, settings[-1]

    def living(self) -> list[int]:
        return living_generations().get(self._shard, [])

    def get_or_start(self, generation: int) -> Any:
        import ray  # here, because a supervisor imports this package before it sets the environment that Ray reads

        from ledger.runtime.actor import LedgerActor

        actor: Any = ray.remote(LedgerActor).options(
            name=name_of(self._shard, generation),
            namespace=NAMESPACE,
            lifetime="detached",
            get_if_exists=True,
            max_restarts=-1,
            max_task_retries=0,  # callers repeat calls themselves, with the same ids, so that a repetition does no harm
            num_cpus=0,
            max_concurrency=1000,
        )
        try:
            return actor.remote(*self._settings, self._decided_at, generation)
        except ValueError as error:  # the name is not free yet
            raise LedgerUnavailable(
                f"Ray cannot start {name_of(self._shard, generation)}: {in_a_line(error)}"
            ) from None

    def identity(self, handle: Any) -> Identity:
        from ray.exceptions import GetTimeoutError, RayActorError

        silence_s = self._settings[2].silence_s
        try:
            return _answer(remote(handle, LedgerCalls.identity), silence_s)
        except GetTimeoutError:
            if _has_started(handle):
                raise Silent(f"no answer within {silence_s:g} s") from None
            raise LedgerUnavailable(f"the actor of shard {self._shard} is still starting; try again") from None
        except RayActorError as error:  # it starts again, or was killed a moment ago
            raise LedgerUnavailable(f"the actor of shard {self._shard} has died: {in_a_line(error)}") from None

    def kill(self, generation: int) -> None:
        _kill(name_of(self._shard, generation))


def end_sessions(seconds: float, draining_s: float) -> None:
    """Before everything stops, let every shard take back the leases of replicas that no longer draw on them.

    Leases that are not back within `seconds` are quarantined after the next start.

    Args:
        draining_s: for so long a beat that was sent before this call may still arrive.
    """
    import ray

    since = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=draining_s)
    until = time.monotonic() + seconds
    for shard, generations in living_generations().items():
        ledger = ray.get_actor(name_of(shard, max(generations)), NAMESPACE)
        while time.monotonic() < until:
            if not _answer(remote(ledger, LedgerCalls.end_sessions, since), max(until - time.monotonic(), 0.1)):
                break
            time.sleep(0.1)


def _retire_beyond(shards: int) -> None:
    """Kill the ledgers of shards that no longer exist, since the number of shards is smaller now."""
    for shard, generations in living_generations().items():
        for generation in generations if shard >= shards else ():
            logger.warning("there are only %d shards now, ending the ledger of shard %d", shards, shard)
            _kill(name_of(shard, generation))


def _kill(name: str) -> None:
    import ray

    try:
        ray.kill(ray.get_actor(name, namespace=NAMESPACE), no_restart=True)
    except ValueError:  # it has ended already
        return


def _answer(reference: Awaitable[T], within_s: float) -> T:
    """Blocks until the call has been answered.

    Raises:
        RayError: it failed, or (GetTimeoutError) was not answered in time.
    """
    import ray

    ray_reference: Any = reference
    answer: T = ray.get(ray_reference, timeout=within_s)
    return answer


def _has_started(handle: Any) -> bool:
    """Whether its constructor has returned. An actor that is still starting is not silent."""
    from ray._private import state  # the public state API needs the dashboard

    return bool(state.actors(handle._actor_id.hex()).get("State") == "ALIVE")
