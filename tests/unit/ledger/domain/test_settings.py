import pytest
from pydantic import ValidationError

from ledger.domain.settings import LedgerSettings, RoasSettings


@pytest.mark.parametrize("shards", ["0", "65", "two"])
def test_there_are_one_to_sixty_four_shards(shards):
    with pytest.raises(ValidationError):
        LedgerSettings(shards=shards)
    assert LedgerSettings(shards="64").shards == 64


@pytest.mark.parametrize("window", ["7", "0d", "d", "-1d", "7d\n", "7h"])
def test_a_window_is_a_number_of_days(window):
    with pytest.raises(ValidationError):
        RoasSettings(window=window)
    assert RoasSettings(window="28d").window_days == 28
