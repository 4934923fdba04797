"""Replicas and ledgers of the version before understand this version's, and the other way round: by pickles of both."""

import base64
import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from ray import cloudpickle

from ledger.bidding.revenue_completion import DaySums
from ledger.domain import errors, messages
from ledger.domain.settings import LedgerSettings, RoasSettings
from ledger.runtime.actor import LedgerActor
from ledger.runtime.generations import Identity
from serve_app.prediction.expectation import Expectation
from serve_app.prediction.predictor import Live, NoModel, Slot
from serve_app.settings import Settings
from tests.pickled_names import names_in
from training.model.model import Columns, Explanation
from training.model.sandbox import REFUSED

BEFORE = {
    name: base64.b64decode(text)
    for name, text in json.loads((Path(__file__).parents[1] / "data" / "before" / "pickles.json").read_text()).items()
}
CLASSES = {
    "event": messages.Event,
    "result": messages.Result,
    "reply": messages.Reply,
    "identity": Identity,
    "ledger_settings": LedgerSettings,
    "roas_settings": RoasSettings,
    "settings": Settings,
    "slot": Slot,
    "live": Live,
    "no_model": NoModel,
    "expectation": Expectation,
    "columns": Columns,
    "explanation": Explanation,
    "fenced": errors.Fenced,
    "layout_replaced": errors.LayoutReplaced,
    "ledger_unavailable": errors.LedgerUnavailable,
    "statement_refused": errors.StatementRefused,
    "other_shard": errors.OtherShard,
    "budget_exhausted": errors.BudgetExhausted,
    "money_out_of_range": errors.MoneyOutOfRange,
    "not_found": errors.NotFound,
    "currency_fixed": errors.CurrencyFixed,
    "portfolio_unknown": errors.PortfolioUnknown,
    "portfolio_mismatch": errors.PortfolioMismatch,
}


ANSWERS_TO_CHANGES = {errors.PreconditionFailed, errors.SettingsInvalid}
"""They are raised for a `Change` alone, which the version before does not send."""


@pytest.mark.parametrize(("name", "wanted"), CLASSES.items(), ids=str)
def test_what_the_version_before_sends_is_todays(name, wanted):
    assert type(pickle.loads(BEFORE[name])) is wanted


def test_what_lies_inside_is_todays_too():
    reply = pickle.loads(BEFORE["reply"])
    inside = type(reply.grants[0]), type(reply.terms), type(reply.terms.brands["b-1"])
    assert inside == (messages.Grant, messages.Terms, messages.BrandTerms)
    assert type(pickle.loads(BEFORE["day_sums"])[0]) is DaySums
    settings = pickle.loads(BEFORE["settings"])
    assert (type(settings.ledger), type(settings.roas)) == (LedgerSettings, RoasSettings)
    assert pickle.loads(BEFORE["actor_class"]) is LedgerActor


def test_a_setting_that_the_version_before_did_not_have_has_its_default():
    """A version gets a setting; Ray starts an actor or a replica again with what the version before had handed it."""
    sent = LedgerSettings(lease_s=7.0, shards=2)
    object.__delattr__(sent, "sweep_s")
    assert "sweep_s" not in vars(sent)
    assert pickle.loads(pickle.dumps(sent)) == LedgerSettings(lease_s=7.0, shards=2)


@pytest.mark.parametrize("name", BEFORE)
def test_what_is_sent_says_only_names_that_the_version_before_knows(name):
    sent = cloudpickle.dumps(pickle.loads(BEFORE[name]))
    assert names_in(sent) == names_in(BEFORE[name])


def test_every_error_of_the_ledger_may_travel():
    ours = {error for error in vars(errors).values() if isinstance(error, type) and issubclass(error, Exception)}
    assert ours - {errors.LedgerError} - ANSWERS_TO_CHANGES == {
        cls for cls in CLASSES.values() if issubclass(cls, errors.LedgerError)
    }
    assert {error.__module__ for error in ours} == {"ledger.errors"}


def test_a_fresh_process_finds_them_by_their_former_names():
    """Ray restarts an actor that the version before has made in a process that has imported nothing."""
    program = "import pickle, sys; print(pickle.loads(sys.stdin.buffer.read()).__qualname__)"
    done = subprocess.run([sys.executable, "-c", program], input=BEFORE["actor_class"], capture_output=True, check=True)
    assert done.stdout.split() == [b"LedgerActor"]


def test_the_setting_of_running_clusters_still_names_the_middlewares():
    program = (
        "import importlib; print(importlib.import_module('serve_app.entrance').middlewares.__module__);"
        "from serve_app.entrance import middlewares"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["serve_app.http.response_coalescing"]


def test_a_replica_of_the_version_before_can_try_a_model():
    """Its files may have been replaced under it: it starts the check of a version by the former name."""
    done = subprocess.run([sys.executable, "-m", "training.verify", "30", str(8 << 30)], input=b"", capture_output=True)
    assert (done.returncode, b"cannot be read" in done.stderr) == (REFUSED, True), done.stderr
