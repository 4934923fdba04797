"""Small histories and a model fitted on one of them."""

import datetime as dt

import numpy as np
import pandas as pd
import pytest

from training.columns import ID_COLUMNS
from training.etl.reader import COLUMNS, day_number
from training.fitting.dataset import TrainingSet
from training.fitting.engines import fit_before
from training.model.model import Model
from training.settings import ModelSettings

FIRST = day_number(dt.date(2020, 4, 1))
KEY = b"k" * 32


def make_history(days: int = 12, seed: int = 0, hourly: bool = False) -> pd.DataFrame:
    """Two brands, three partners, two slots each, two devices; one slot has no placement score."""
    random = np.random.default_rng(seed)
    rows = []
    for day in range(FIRST, FIRST + days):
        for brand in ("b1", "b2"):
            for partner in ("p1", "p2", "p3"):
                for slot in ("s1", "s2"):
                    for device in ("desktop", "mobile"):
                        impressions = int(random.integers(200, 5000))
                        clicks = int(random.binomial(impressions, 0.01))
                        rate = 900 * (1 + (brand == "b2")) * (1 + 0.5 * (partner == "p1"))
                        rows.append(
                            (
                                *(day, int(random.integers(0, 24)) if hourly else -1),
                                *(brand, partner, f"{partner}:{slot}", device, "300x250"),
                                np.nan if slot == "s2" else 0.5,
                                *(impressions, clicks, clicks // 5),
                                np.nan if brand == "b2" else impressions * 800.0,
                                float(np.round(impressions * rate * random.lognormal(0, 0.2))),
                                float(impressions * 10),
                            )
                        )
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    return frame.astype(dict.fromkeys(ID_COLUMNS, object)).astype(dict.fromkeys(COLUMNS[7:], np.float64))


@pytest.fixture(scope="session")
def settings() -> ModelSettings:
    return ModelSettings(trees=20, min_rows_in_leaf=5)


def fitted(frame: pd.DataFrame, settings: ModelSettings, made_at: dt.datetime) -> Model:
    data = TrainingSet.of(frame, settings.pending_share)
    newest = int(data.days.max())
    return Model.assemble(
        fit_before(data, newest + 1, settings),
        data.encoder(newest),
        trained_through=dt.date(1970, 1, 1) + dt.timedelta(days=newest),
        made_at=made_at,
    )


@pytest.fixture(scope="session")
def model(settings: ModelSettings) -> Model:
    return fitted(make_history(), settings, dt.datetime(2020, 4, 13, 2, tzinfo=dt.UTC))


@pytest.fixture(scope="session")
def other_model(settings: ModelSettings) -> Model:
    return fitted(make_history(seed=1), settings, dt.datetime(2020, 4, 14, 2, tzinfo=dt.UTC))
