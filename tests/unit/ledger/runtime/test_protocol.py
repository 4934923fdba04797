# mypy: enable-error-code="arg-type"
"""What the actor answers is what its callers are promised, and mypy refuses a call that is not."""

import inspect

import pytest

from ledger.client.ledger_client import LedgerClient
from ledger.client.shard_client import ShardClient
from ledger.domain.messages import Event, Result
from ledger.runtime.actor import LedgerActor
from ledger.runtime.protocol import LedgerCalls, remote
from tests.unit.ledger.books import event

CALLS = [name for name, member in vars(LedgerCalls).items() if inspect.iscoroutinefunction(member)]


@pytest.mark.parametrize("name", CALLS)
def test_the_actor_answers_every_call_with_the_same_arguments(name):
    promised, kept = getattr(LedgerCalls, name), getattr(LedgerActor, name)
    assert inspect.iscoroutinefunction(kept)
    assert inspect.signature(kept) == inspect.signature(promised)


def test_the_names_are_what_travels():
    """Old and new replicas call the same actor while a deployment rolls."""
    assert sorted(CALLS) == [
        "beat", "end_sessions", "get_brand", "get_portfolio", "identity", "list_brands", "listen", "put_brand",
        "put_portfolio", "record", "release", "slot_roas", "summon",
    ]  # fmt: skip


async def test_a_call_goes_to_the_method_of_its_name():
    class Handle:
        def __getattr__(self, name: str):
            return Method(name)

    class Method:
        def __init__(self, name: str) -> None:
            self.name = name

        async def remote(self, *args: object) -> tuple[object, ...]:
            return self.name, *args

    answer: object = await remote(Handle(), LedgerCalls.release, ["r"])
    assert answer == ("release", ["r"])


async def _seen_by_mypy_alone(shard: ShardClient, client: LedgerClient, events: list[Event]) -> None:
    """Each comment names the error that mypy finds there: without it `make check` would complain of the comment."""
    results: list[Result] = await shard.call(LedgerCalls.record, [event("e", "impression")])
    results = await client.record(1.0, events)
    await shard.call(LedgerCalls.recorded, events)  # type: ignore[attr-defined]
    await shard.call(LedgerCalls.record)  # type: ignore[call-arg]
    await shard.call(LedgerCalls.record, events, 5)  # type: ignore[call-arg]
    await shard.call(LedgerCalls.record, results)  # type: ignore[arg-type]
    await shard.call_within(1.0, LedgerCalls.slot_roas, "b", {}, "7d", 0.5)  # type: ignore[arg-type]
    number: int = await shard.call(LedgerCalls.get_brand, "b")  # type: ignore[arg-type]
    await client.get_brand(1.0, number)  # type: ignore[arg-type]
    await remote(None, LedgerCalls.beat, "no bytes")  # type: ignore[arg-type]
