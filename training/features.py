"""Rows → matrix, as of a day: what was known before it. Training and serving share the code that fills a row.

A row's place has six levels, brand → partner → slot → device → creative → placement score, each within the
one before. At every level and for every half-life the decayed sums of EARLIER days give a rate per exposure,
shrunk to the rate of the level above: an unseen slot starts from its partner, an unseen brand from everybody.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import pandas as pd

from training.arrays import from_text, to_text

Floats = npt.NDArray[np.float64]
Singles = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]

ID_COLUMNS = ("brand_id", "partner_id", "slot_id", "device_type", "creative_type")
LEVELS = ("brand", "partner", "slot", "device", "creative", "placement")
HALF_LIVES_DAYS = (1.0, 3.0, 10.0)
PRIOR_EXPOSURE = 2000.0
"""Impressions of the level above that every level is mixed with."""
MEASURES = ("revenue_micros", "clicks", "conversions", "exposure", "cost_micros", "cost_exposure")
REVENUE, CLICKS, CONVERSIONS, EXPOSURE, COST, COST_EXPOSURE = range(len(MEASURES))
N_HALF_LIVES = len(HALF_LIVES_DAYS)
FEATURES = (
    *(f"{level}_revenue_{half_life:g}d" for level in LEVELS for half_life in HALF_LIVES_DAYS),
    *(f"{level}_exposure_{half_life:g}d" for level in LEVELS for half_life in HALF_LIVES_DAYS),
    *ID_COLUMNS,
    "placement_score",
    "day_of_week",
    "hour",
)
N_HISTORY = 2 * len(LEVELS) * N_HALF_LIVES
IDS_FROM = N_HISTORY
PLACEMENT = IDS_FROM + len(ID_COLUMNS)
DAY_OF_WEEK, HOUR = PLACEMENT + 1, PLACEMENT + 2
NO_HOUR = -1.0
NO_SCORE = float("-inf")
"""Stands for "no placement score" in keys: NaN is unequal to itself, scores are finite."""
DAY_S = 86_400
FILLED_TOGETHER = 8_192
"""Keys whose histories are filled at a time: each takes a kilobyte meanwhile."""


class Heads(NamedTuple):
    """(n,) shrunk expectations per exposure from histories alone, longest half-life at the deepest level."""

    revenue_micros: Floats
    ctr: Floats
    cvr: Floats
    cost_micros: Floats  # NaN where no cost was ever known


class Filled(NamedTuple):
    history: Singles  # (n, N_HISTORY)
    heads: Floats  # (n, 4), the columns of Heads


def fill(root: Floats, sums: Sequence[Floats]) -> Filled:
    """The part of a row that histories decide.

    Args:
        root: (N_HALF_LIVES, len(MEASURES)) decayed sums over everybody.
        sums: per level (n, N_HALF_LIVES, len(MEASURES)), zeros where the level's key was never seen.
    """
    n = len(sums[0])
    history = np.empty((n, N_HISTORY), np.float32)
    rates = np.repeat(_rates(root)[None], n, axis=0)  # (n, half-lives, revenue | clicks | conversions | cost)
    exposures_from = len(LEVELS) * N_HALF_LIVES
    for level, seen in enumerate(sums):
        exposure, cost_exposure = seen[..., EXPOSURE], seen[..., COST_EXPOSURE]
        prior = PRIOR_EXPOSURE * rates
        for column, measure in enumerate((REVENUE, CLICKS, CONVERSIONS)):
            rates[..., column] = (seen[..., measure] + prior[..., column]) / (exposure + PRIOR_EXPOSURE)
        # A brand that never told its cost has everybody's, where anybody told it.
        rates[..., 3] = (seen[..., COST] + prior[..., 3]) / (cost_exposure + PRIOR_EXPOSURE)
        np.maximum(rates, 0.0, out=rates)
        at = level * N_HALF_LIVES
        history[:, at : at + N_HALF_LIVES] = rates[..., 0]
        history[:, exposures_from + at : exposures_from + at + N_HALF_LIVES] = exposure
    return Filled(history, rates[:, -1, :].copy())


def _rates(sums: Floats) -> Floats:
    """(…, MEASURES) → (…, 4) unshrunk; zero without exposure, NaN for a cost that was never known."""
    exposure = np.maximum(sums[..., EXPOSURE], 1e-9)
    cost_exposure = sums[..., COST_EXPOSURE]
    cost = np.where(cost_exposure > 0, sums[..., COST] / np.maximum(cost_exposure, 1e-9), np.nan)
    shares = [np.maximum(sums[..., measure], 0.0) / exposure for measure in (REVENUE, CLICKS, CONVERSIONS)]
    rates: Floats = np.stack([*shares, cost], axis=-1)
    return rates


def measures(frame: pd.DataFrame, pending_share: float) -> Floats:
    """(n, len(MEASURES)) of a history frame (see `training.read_history`).

    Exposure is impressions; a row without impressions that has clicks is measured in clicks, so that tuples
    that only ever see clicks are predicted per click.
    """
    impressions = frame["impressions"].to_numpy(np.float64)
    clicks = frame["clicks"].to_numpy(np.float64)
    cost = frame["cost_micros"].to_numpy(np.float64)
    pending = frame["pending_revenue_micros"].to_numpy(np.float64)
    of_day = impressions
    if (frame["hour"].to_numpy() >= 0).any():
        keys = [frame[name] for name in ("day", *ID_COLUMNS)] + [frame["placement_score"]]
        of_day = frame["impressions"].groupby(keys, dropna=False).transform("sum").to_numpy(np.float64)
    exposure = np.where(of_day > 0, impressions, clicks)
    columns: Floats = np.column_stack(
        [
            frame["revenue_micros"].to_numpy(np.float64) + pending_share * pending,
            clicks,
            frame["conversions"].to_numpy(np.float64),
            exposure,
            np.nan_to_num(cost),
            np.where(np.isnan(cost), 0.0, exposure),
        ]
    )
    return columns


@dataclass(frozen=True, slots=True)
class Keys:
    """Every row's place as codes."""

    ids: list[npt.NDArray[np.int64]]  # five times (n,), codes into `vocabulary`
    vocabulary: list[list[str]]
    levels: list[npt.NDArray[np.int64]]  # six times (n,): one code for each distinct key of the level

    @classmethod
    def of(cls, frame: pd.DataFrame, vocabulary: list[list[str]] | None = None) -> Self:
        """Codes follow the alphabet, so that the order of rows means nothing; unknown ids are −1."""
        ids: list[npt.NDArray[np.int64]] = []
        words: list[list[str]] = []
        for position, name in enumerate(ID_COLUMNS):
            known = sorted(frame[name].unique().tolist()) if vocabulary is None else vocabulary[position]
            ids.append(pd.Index(known, dtype=object).get_indexer(pd.Index(frame[name], dtype=object)).astype(np.int64))
            words.append(known)
        scores = frame["placement_score"].to_numpy(np.float64)
        _, score_codes = np.unique(np.where(np.isnan(scores), NO_SCORE, scores), return_inverse=True)
        levels: list[npt.NDArray[np.int64]] = []
        code = np.zeros(len(frame), np.int64)
        for column in (*ids, score_codes.astype(np.int64)):
            code = pd.factorize(code * (int(column.max(initial=0)) + 2) + column + 1)[0].astype(np.int64)
            levels.append(code)
        return cls(ids, words, levels)


def ticks(days: Integers) -> Integers:
    """(n,) each day's number among the days that have data: the clock by which histories fade.

    By the calendar, the first event after a pause of the whole feed would find nothing left of what was known.

    >>> ticks(np.array([18_000, 18_002, 18_000, 20_500])).tolist()
    [0, 1, 0, 2]
    """
    return np.unique(days, return_inverse=True)[1].astype(np.int64)


class Decayed:
    """Decayed sums of one level: a key's numbers are brought up to date only when it is touched."""

    def __init__(self, n_keys: int) -> None:
        self._sums = np.zeros((n_keys, N_HALF_LIVES, len(MEASURES)))
        self._through = np.zeros(n_keys, np.int64)

    def as_of(self, keys: Integers, day: int) -> Floats:
        """(k, half-lives, measures): what days before `day` say, yesterday at full weight."""
        return self._sums[keys] * self._decay(keys, day - 1)

    def add(self, keys: Integers, day: int, numbers: Floats) -> None:
        """Distinct keys, (k, measures)."""
        self._sums[keys] = self._sums[keys] * self._decay(keys, day) + numbers[:, None, :]
        self._through[keys] = day

    def _decay(self, keys: Integers, day: int) -> Floats:
        age = np.maximum(day - self._through[keys], 0)[:, None]
        decay: Floats = 0.5 ** (age / np.array(HALF_LIVES_DAYS))
        return decay[..., None]


def walk(days: Integers, keys: Keys, numbers: Floats) -> Iterator[tuple[Integers, Filled]]:
    """A day at a time: (positions of the day's rows, their histories as of the day before)."""
    order = np.argsort(days, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(days[order]) != 0]) if len(days) else np.empty(0, np.int64)
    root = Decayed(1)
    levels = [Decayed(int(codes.max(initial=-1)) + 1) for codes in keys.levels]
    for start, end in zip(starts, np.r_[starts[1:], len(order)], strict=True):
        rows = order[start:end]
        day = int(days[rows[0]])
        today = numbers[rows]
        seen = []
        for level, codes in zip(levels, keys.levels, strict=True):
            distinct, inverse = np.unique(codes[rows], return_inverse=True)
            seen.append(level.as_of(distinct, day)[inverse])
            level.add(distinct, day, _group_sums(inverse, today, len(distinct)))
        one = np.zeros(1, np.int64)
        filled = fill(root.as_of(one, day)[0], seen)
        root.add(one, day, today.sum(axis=0)[None])
        yield rows, filled


def _group_sums(groups: Integers, numbers: Floats, n_groups: int) -> Floats:
    columns = [
        np.bincount(groups, weights=numbers[:, column], minlength=n_groups) for column in range(numbers.shape[1])
    ]
    sums: Floats = np.column_stack(columns)
    return sums


def as_of_the_day_before(frame: pd.DataFrame, keys: Keys, numbers: Floats) -> tuple[Singles, Floats]:
    """((n, len(FEATURES)) matrix, (n, 4) heads): every row as what was known before its day.

    Args:
        frame: a history (see `training.read_history`), in any order.
        keys, numbers: of the same rows, by `Keys.of` and `measures`.
    """
    days = frame["day"].to_numpy(np.int64)
    out = np.empty((len(frame), len(FEATURES)), np.float32)
    heads = np.empty((len(frame), len(Heads._fields)))
    for rows, filled in walk(ticks(days), keys, numbers):
        out[rows, :N_HISTORY] = filled.history
        heads[rows] = filled.heads
    for position, codes in enumerate(keys.ids):
        out[:, IDS_FROM + position] = codes
    out[:, PLACEMENT] = frame["placement_score"].to_numpy(np.float64)
    out[:, DAY_OF_WEEK] = (days + 3) % 7
    out[:, HOUR] = frame["hour"].to_numpy(np.float64)
    return out, heads


class Confidence(NamedTuple):
    impressions: float
    """Decayed impressions behind the prediction, at the level below."""
    level: str
    """The deepest level with a history of its own: one of LEVELS, or `all` for an unseen brand."""


class Encoder:
    """A version's tables: every known tuple's decayed sums as of its last training day, looked up in memory.

    Only full tuples are stored; the sums of the levels above are sums of theirs.
    """

    def __init__(
        self,
        vocabulary: list[list[str]],
        tuples: npt.NDArray[np.int32],
        scores: Floats,
        sums: Floats,
    ) -> None:
        """
        Args:
            vocabulary: five lists of ids.
            tuples: (k, 5) codes into them.
            scores: (k,) placement scores, NaN for none.
            sums: (k, half-lives, measures), yesterday at full weight.
        """
        self.vocabulary, self.tuples, self.scores, self.sums = vocabulary, tuples, scores, sums
        self._codes = [{word: code for code, word in enumerate(words)} for words in vocabulary]
        self._row_of: dict[tuple[Any, ...], int] = {(): 0}
        """Of each key of each level, and of everybody."""
        self._rows, self._heads, self._exposure = self._build()

    @classmethod
    def fitted(cls, frame: pd.DataFrame, keys: Keys, numbers: Floats, through: int) -> Self:
        """As of the end of day `through` (days since 1970): what the next day may know."""
        deepest = keys.levels[-1]
        days = frame["day"].to_numpy(np.int64)
        if (days > through).any():
            raise ValueError("the history goes beyond the day it is to be seen from")
        clock = ticks(days)
        ages = (clock.max(initial=0) - clock)[:, None]
        weights = 0.5 ** (ages / np.array(HALF_LIVES_DAYS))
        n_keys = int(deepest.max(initial=-1)) + 1
        sums = np.stack([_group_sums(deepest, numbers * weights[:, [h]], n_keys) for h in range(N_HALF_LIVES)], axis=1)
        first = np.unique(deepest, return_index=True)[1]
        tuples = np.column_stack([codes[first] for codes in keys.ids]).astype(np.int32)
        return cls(keys.vocabulary, tuples, frame["placement_score"].to_numpy(np.float64)[first], sums)

    def _build(self) -> tuple[Singles, Floats, Floats]:
        """What is looked up: (r, len(FEATURES)) rows, (r, 4) heads and (r,) exposure by the longest half-life.

        A key's row is filled as it is where nothing deeper is known. What deeper levels would add, they have in theirs.
        """
        words = [np.array(vocabulary, dtype=object) for vocabulary in self.vocabulary]
        columns: list[list[Any]] = [words[c][self.tuples[:, c]].tolist() for c in range(len(ID_COLUMNS))]
        columns.append(np.where(np.isnan(self.scores), NO_SCORE, self.scores).tolist())
        full = list(zip(*columns, strict=True))
        levels: list[tuple[Floats, Integers]] = []  # (sums by group, each tuple's group)
        for depth in range(1, len(LEVELS) + 1):
            index: dict[tuple[Any, ...], int] = {}
            groups = np.fromiter((index.setdefault(key[:depth], len(index)) for key in full), np.int64, len(full))
            sums = np.zeros((len(index), N_HALF_LIVES, len(MEASURES)))
            np.add.at(sums, groups, self.sums)
            levels.append((sums, groups))
            self._row_of.update(zip(index, range(len(self._row_of), len(self._row_of) + len(index)), strict=True))
        number = len(self._row_of)
        rows, heads = np.empty((number, len(FEATURES)), np.float32), np.empty((number, len(Heads._fields)))
        exposure = np.empty(number)
        root, end = self.sums.sum(axis=0), number
        while levels:  # the deepest first: nobody else needs its sums
            sums, groups = levels[-1]
            start = end - len(sums)
            exposure[start:end] = sums[:, -1, EXPOSURE]
            self._fill(rows[start:end], heads[start:end], root, levels, np.unique(groups, return_index=True)[1])
            end = start
            del levels[-1], sums, groups
        exposure[0] = root[-1, EXPOSURE]
        self._fill(rows[:1], heads[:1], root, [], np.zeros(1, np.int64))
        return rows, heads, exposure

    def _fill(
        self, rows: Singles, heads: Floats, root: Floats, levels: Sequence[tuple[Floats, Integers]], tuples: Integers
    ) -> None:
        """Rows and heads of these tuples as far as these levels know them."""
        for start in range(0, len(tuples), FILLED_TOGETHER):
            some = tuples[start : start + FILLED_TOGETHER]
            unseen = np.zeros((len(some), N_HALF_LIVES, len(MEASURES)))
            known = [sums[groups[some]] for sums, groups in levels]
            filled = fill(root, [*known, *[unseen] * (len(LEVELS) - len(levels))])
            rows[start : start + len(some), :N_HISTORY] = filled.history
            heads[start : start + len(some)] = filled.heads
        known_ids = min(len(levels), len(ID_COLUMNS))
        rows[:, IDS_FROM:PLACEMENT] = -1.0
        if known_ids:
            rows[:, IDS_FROM : IDS_FROM + known_ids] = self.tuples[tuples, :known_ids]
        rows[:, PLACEMENT], rows[:, DAY_OF_WEEK], rows[:, HOUR] = np.nan, 0.0, NO_HOUR

    def encode(
        self, ids: Sequence[Sequence[str]], placement_score: Floats, at: Integers | None = None
    ) -> tuple[Singles, Floats]:
        """Columns of bids → ((n, len(FEATURES)) matrix, (n, 4) heads).

        Args:
            ids: five sequences of n ids, in the order of ID_COLUMNS.
            placement_score: (n,), NaN for none.
            at: (n,) UTC seconds since 1970; None leaves hour unknown and the day a Monday.
        """
        scores = np.where(np.isnan(placement_score), NO_SCORE, placement_score).tolist()
        keys = list(zip(*ids, scores, strict=True))
        row_of = self._row_of.get
        found = list(map(row_of, keys))
        new_ids: list[tuple[int, int]] = []  # (bid, the first level at which its ids are new)
        for n, row in enumerate(found):
            if row is not None:
                continue
            key, depth = keys[n], len(ID_COLUMNS)
            while (row := row_of(key[:depth])) is None:
                depth -= 1
            found[n] = row
            if depth < len(ID_COLUMNS):
                new_ids.append((n, depth))
        places = np.array(found, np.intp)
        out, heads = self._rows.take(places, axis=0), self._heads.take(places, axis=0)
        for n, depth in new_ids:  # each may be known from elsewhere
            names = zip(self._codes[depth:], keys[n][depth:-1], strict=True)
            out[n, IDS_FROM + depth : PLACEMENT] = [codes.get(name, -1) for codes, name in names]
        out[:, PLACEMENT] = placement_score
        if at is not None:
            out[:, DAY_OF_WEEK] = (at // DAY_S + 3) % 7
            out[:, HOUR] = at // 3600 % 24
        return out, heads

    def confidence(self, ids: Sequence[str], placement_score: float | None = None) -> Confidence:
        """What stands behind one tuple's prediction, by the longest half-life."""
        key = (*ids, NO_SCORE if placement_score is None else placement_score)
        depths = range(len(LEVELS), 0, -1) if placement_score is not None else range(len(LEVELS) - 1, 0, -1)
        for depth in depths:
            row = self._row_of.get(key[:depth])
            if row is not None and (impressions := float(self._exposure[row])) > 0:
                return Confidence(impressions, LEVELS[depth - 1])
        return Confidence(float(self._exposure[0]), "all")

    def to_document(self) -> dict[str, Any]:
        """JSON, exact to the bit."""
        return {
            "vocabulary": self.vocabulary,
            "half_lives_days": list(HALF_LIVES_DAYS),
            "measures": list(MEASURES),
            "tuples": to_text(self.tuples),
            "scores": to_text(self.scores),
            "sums": to_text(self.sums),
        }

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> Self:
        """
        Raises:
            ValueError, KeyError: not an encoder of this program.
        """
        if document["half_lives_days"] != list(HALF_LIVES_DAYS) or document["measures"] != list(MEASURES):
            raise ValueError("the encoder keeps other histories than this program reads")
        tuples, scores, sums = (from_text(document[name]) for name in ("tuples", "scores", "sums"))
        return cls(document["vocabulary"], tuples.astype(np.int32), scores, sums)
