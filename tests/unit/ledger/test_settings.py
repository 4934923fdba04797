import pytest
from pydantic import ValidationError

from db.environment import BadSetting, read
from ledger import LedgerSettings, RoasSettings


def test_a_second_shard_is_refused_for_now():
    with pytest.raises(BadSetting, match=r"PACELINE_LEDGER_SHARDS.*one ledger shard"):
        read("ledger", LedgerSettings, {"PACELINE_LEDGER_SHARDS": "2"})


@pytest.mark.parametrize("window", ["7", "0d", "d", "-1d", "7d\n", "7h"])
def test_a_window_is_a_number_of_days(window):
    with pytest.raises(ValidationError):
        RoasSettings(window=window)
    assert RoasSettings(window="28d").window_days == 28
