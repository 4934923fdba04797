"""Replicas with the same settings share one ledger; newer settings replace it."""

import itertools

import pytest

from db import DatabaseSettings
from ledger import LedgerSettings, LedgerUnavailable, RoasSettings
from ledger.actor import CONNECT_TRIES, Identity, agree, digest_of

DATABASE = DatabaseSettings(url="sqlite+aiosqlite:///x.db")
OLD, NEW, LATER = Identity("old", 1.0), Identity("new", 2.0), Identity("new", 3.0)


class Cluster:
    """One actor's name; what a kill frees may be taken by whoever comes first."""

    def __init__(self, running: Identity | None = None) -> None:
        self._numbers = itertools.count()
        self.actors: dict[int, Identity] = {}
        self.named: int | None = None
        self.killed: list[int] = []
        if running is not None:
            self.meet(running)

    def meet(self, wanted: Identity) -> tuple[int, Identity]:
        if self.named is None:
            self.named = next(self._numbers)
            self.actors[self.named] = wanted
        return self.named, self.actors[self.named]

    def kill(self, actor: int) -> None:
        self.killed.append(actor)
        if actor == self.named:
            self.named = None

    def connect(self, wanted: Identity, meet=None) -> Identity:
        return self.actors[agree(wanted, meet or (lambda: self.meet(wanted)), self.kill, sleep=lambda _: None)]


@pytest.mark.parametrize(
    ("story", "running", "wanted", "served", "kills"),
    [
        ("nobody is there", None, NEW, NEW, 0),
        ("the same settings", NEW, LATER, NEW, 0),
        ("the old ones make room", OLD, NEW, NEW, 1),
        ("a replica of the last deployment follows", NEW, OLD, NEW, 0),
        ("two of one moment do not fight", Identity("other", 2.0), NEW, Identity("other", 2.0), 0),
    ],
)
def test_the_newest_settings_are_served(story, running, wanted, served, kills):
    cluster = Cluster(running)
    assert cluster.connect(wanted) == served, story
    assert len(cluster.killed) == kills, story


def test_replicas_that_meet_the_old_one_together_end_with_one_new_one():
    cluster = Cluster(OLD)
    seen_before = cluster.meet(NEW)
    assert cluster.connect(NEW) == NEW
    answers = iter([seen_before])
    # The other replica had met the old actor too: it kills that one once more, not its successor.
    assert cluster.connect(LATER, lambda: next(answers, None) or cluster.meet(LATER)) == NEW
    assert cluster.killed == [0, 0]


def test_a_name_that_is_not_free_yet_is_asked_for_again():
    cluster, busy = Cluster(), iter(range(3))

    def meet():
        if next(busy, None) is not None:
            raise LedgerUnavailable("being removed")
        return cluster.meet(NEW)

    assert cluster.connect(NEW, meet) == NEW


def test_a_ledger_that_never_comes_is_given_up():
    tries = []

    def meet():
        tries.append(1)
        raise LedgerUnavailable("being removed")

    with pytest.raises(LedgerUnavailable):
        agree(NEW, meet, lambda _: None, sleep=lambda _: None)
    assert len(tries) == CONNECT_TRIES


def test_every_setting_counts():
    same = (DATABASE, None, LedgerSettings(), RoasSettings(), 0)
    others = [
        (DatabaseSettings(url="sqlite+aiosqlite:///y.db"), *same[1:]),
        (DATABASE, "redis://r", *same[2:]),
        (*same[:2], LedgerSettings(conversion_days=7), *same[3:]),
        (*same[:3], RoasSettings(window="1d"), 0),
        (*same[:4], 1),
    ]
    assert digest_of(*same) == digest_of(DATABASE.model_copy(), None, LedgerSettings(), RoasSettings(), 0)
    assert len({digest_of(*settings) for settings in (same, *others)}) == len(others) + 1
