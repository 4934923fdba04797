import pytest
from pydantic import ValidationError

from db.environment import BadSetting, read
from ledger.domain.settings import LedgerSettings, RoasSettings


@pytest.mark.parametrize("shards", ["0", "65", "two"])
def test_there_are_one_to_sixty_four_shards(shards):
    with pytest.raises(BadSetting, match="PACELINE_LEDGER_SHARDS"):
        read("ledger", LedgerSettings, {"PACELINE_LEDGER_SHARDS": shards})
    assert read("ledger", LedgerSettings, {"PACELINE_LEDGER_SHARDS": "64"}).shards == 64


@pytest.mark.parametrize("window", ["7", "0d", "d", "-1d", "7d\n", "7h"])
def test_a_window_is_a_number_of_days(window):
    with pytest.raises(ValidationError):
        RoasSettings(window=window)
    assert RoasSettings(window="28d").window_days == 28
