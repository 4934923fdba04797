"""Steps 2 and 3, features and fit: makes the training set from the history, and fits the trees to it."""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple

import pandas as pd

from training.etl.approvals import pending_shares
from training.fitting.dataset import PayoutBreak, TrainingSet
from training.fitting.engines import Boosters
from training.nightly.checkpoints import (
    fingerprint,
    load_features,
    load_fit,
    of_history,
    of_program,
    save_features,
    save_fit,
)
from training.nightly.errors import NothingToLearn
from training.nightly.night import Night
from training.reports.report_data import RECENT_DAYS, break_in_a_line, payout_breaks
from training.settings import ModelSettings

MOST_BREAKS = 10
"""Payout changes that get a warning each; the others share one."""


class Features(NamedTuple):
    """The training set of the run."""

    data: TrainingSet
    newest: int  # day, since 1970
    key: str  # fingerprint of everything that it was made from
    broken: list[PayoutBreak]  # of the whole history

    @property
    def recently_broken(self) -> list[dict[str, Any]]:
        """The payout changes of the last RECENT_DAYS days of the history, for JSON."""
        return payout_breaks(self.broken, self.newest - RECENT_DAYS + 1)


class Fitted(NamedTuple):
    """The fitted trees."""

    boosters: Boosters
    key: str  # fingerprint of everything that they were made from


async def make_features(night: Night, frame: pd.DataFrame) -> Features:
    """The training set; each recent change of a payout is a warning.

    Args:
        frame: the history.

    Raises:
        NothingToLearn: no row of it has impressions or clicks.
    """
    newest = int(frame["day"].max())
    with night.progress.step("features") as done:
        pending = await pending_shares(night.database, night.settings.pending_share)
        key = await asyncio.to_thread(lambda: fingerprint(of_program(), of_history(frame), pending))
        data, was_kept = await asyncio.to_thread(
            night.checkpoints.load_or_make,
            "features",
            key,
            load=lambda folder: load_features(folder, frame),
            make=lambda: TrainingSet.of(frame, pending),
            save=save_features,
        )
        done(f"{data.matrix.shape[0]:,} rows × {data.matrix.shape[1]} features", kept=was_kept)
    if not data.before(newest + 1).any():
        raise NothingToLearn("no row of the history has impressions or clicks, so there is nothing to learn from")
    features = Features(data, newest, key, await asyncio.to_thread(data.payout_breaks))
    for line in _broken(features.recently_broken):
        night.progress.warn(line)
    return features


async def fit_trees(night: Night, features: Features) -> Fitted:
    """Fit the trees.

    Raises:
        FitFailed: they could not be fitted.
    """
    settings = night.settings
    with night.progress.step("fit") as done:
        key = fingerprint(features.key, _settings_of_fit(settings))
        boosters, was_kept = await asyncio.to_thread(
            night.checkpoints.load_or_make,
            "fit",
            key,
            load=load_fit,
            make=lambda: night.fitter(features.data, features.newest, settings),
            save=save_fit,
        )
        done(f"{settings.trees} trees of {settings.leaves} leaves", kept=was_kept)
    return Fitted(boosters, key)


def _broken(recent: list[dict[str, Any]]) -> list[str]:
    lines = [break_in_a_line(one) for one in recent[:MOST_BREAKS]]
    if len(recent) > MOST_BREAKS:
        lines.append(f"{len(recent) - MOST_BREAKS} more payouts changed abruptly: see the night's report")
    return lines


def _settings_of_fit(settings: ModelSettings) -> dict[str, Any]:
    dumped = settings.model_dump(mode="json", exclude={"key", "keep", "registry", "threads"})
    return {name: value for name, value in dumped.items() if not name.startswith("gate_")}
