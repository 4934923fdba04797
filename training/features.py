"""Rows → matrix, as of a day: what was known before it. Training and serving share the code that fills a row.

A row's place has six levels, brand → partner → slot → device → creative → placement score, each within the one before.
What is known of it are rates that move (`rates.py`): revenue, clicks, conversions and cost per exposure, each a product
of factors along the path, so that an unseen slot starts from its partner, an unseen brand from everybody. Their product
is the expectation that the trees start from; the trees see how it came about and how much stands behind it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import pandas as pd

from training import breaks, rates
from training.arrays import Codes, Floats, Integers, Singles, from_text, to_text
from training.rates import BRAND, Filter

ID_COLUMNS = ("brand_id", "partner_id", "slot_id", "device_type", "creative_type")
LEVELS = ("brand", "partner", "slot", "device", "creative", "placement")
PATH = ("all", *LEVELS)
HALF_LIVES_DAYS = (1.0, 10.0)
"""Of the exposure that stands behind a key."""
MEASURES = ("revenue_micros", "clicks", "conversions", "exposure", "cost_micros", "cost_exposure")
REVENUE, CLICKS, CONVERSIONS, EXPOSURE, COST, COST_EXPOSURE = range(len(MEASURES))

QUICK = Filter()
STEADY = Filter(drift_top=0.002, shock_top=0.02, credible=10_000.0, floor=0.05)
COUNTED = Filter(drift_top=0.002, shock_top=0.02)
"""Of what is rare, such as conversions and what they pay, a key's day says little: STEADY believes it slowly, QUICK at
once, and between them lies what is right for a given market. Only clicks are never rare."""
RATES = {
    # name: numerator, denominator, what is believed of it
    "revenue": (REVENUE, EXPOSURE, QUICK),
    "revenue_steady": (REVENUE, EXPOSURE, STEADY),
    "clicks": (CLICKS, EXPOSURE, COUNTED),
    "conversions": (CONVERSIONS, EXPOSURE, STEADY),
    "cost": (COST, COST_EXPOSURE, QUICK),
}
QUICKLY, STEADILY, CLICKED, CONVERTED, SPENT = range(len(RATES))
PAYOUT = Filter(levels=2, drift_top=0.02, shock_top=0.001, credible=1.0)
"""Revenue per click of everybody and of each brand: known to a percent within a day, and changed by contracts."""
PAID = (REVENUE, CLICKS, PAYOUT)
TRUSTED_CLICKS = 100.0
"""Decayed clicks of a brand from which clicks × payout counts half as much as it may."""

FEATURES = (
    *(f"{level}_exposure_{half_life:g}d" for level in PATH for half_life in HALF_LIVES_DAYS),
    *(f"{level}_factor" for level in LEVELS),
    "log_revenue",
    "momentum",
    "log_ctr",
    "log_cvr",
    "log_roas",
    "device_type",
    "creative_type",
    "placement_score",
    "day_of_week",
    "hour",
)
"""Codes of brand, partner and slot are not among them: what they are is in their histories, and with their codes the
trees learned days by heart (R² fell by 0.002 on one real file, nothing was gained on the other)."""
N_EXPOSURE = len(PATH) * len(HALF_LIVES_DAYS)
FACTORS_FROM = N_EXPOSURE
LOGS_FROM = FACTORS_FROM + len(LEVELS)
CODES_FROM = LOGS_FROM + 5
CODED = (3, 4)
"""Which of ID_COLUMNS are features themselves."""
PLACEMENT = CODES_FROM + len(CODED)
DAY_OF_WEEK, HOUR = PLACEMENT + 1, PLACEMENT + 2
NO_HOUR = -1.0
NO_SCORE = float("-inf")
"""Stands for "no placement score" in keys: NaN is unequal to itself, scores are finite."""
EVERYBODY = ""
"""Stands for brands without a share of their own; no brand is called so."""
DAY_S = 86_400
FILLED_TOGETHER = 65_536
"""Rows; each takes a hundred bytes meanwhile."""


class Heads(NamedTuple):
    """(n,) expectations per exposure from histories alone."""

    revenue_micros: Floats  # 0 where nobody has earned anything yet
    ctr: Floats
    cvr: Floats
    cost_micros: Floats  # NaN where no cost was ever known


N_HEADS = len(Heads._fields)


def measures(frame: pd.DataFrame, pending_share: float | Mapping[str, float]) -> Floats:
    """(n, len(MEASURES)) of a history frame (see `training.read_history`).

    Args:
        pending_share: of pending revenue that will be approved; by brand as `approvals.pending_shares` gives it.

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
        of_day = frame["impressions"].groupby(keys, dropna=False, observed=True).transform("sum").to_numpy(np.float64)
    exposure = np.where(of_day > 0, impressions, clicks)
    columns: Floats = np.empty((len(frame), len(MEASURES)), order="F")  # column by column they are walked through
    if isinstance(pending_share, Mapping):
        of_brand = frame["brand_id"].map(pending_share).to_numpy(np.float64)
        pending = pending * np.where(np.isnan(of_brand), pending_share[EVERYBODY], of_brand)
    else:
        pending = pending * pending_share
    columns[:, REVENUE] = frame["revenue_micros"].to_numpy(np.float64) + pending
    columns[:, CLICKS] = clicks
    columns[:, CONVERSIONS] = frame["conversions"].to_numpy(np.float64)
    columns[:, EXPOSURE] = exposure
    columns[:, COST] = np.nan_to_num(cost)
    columns[:, COST_EXPOSURE] = np.where(np.isnan(cost), 0.0, exposure)
    return columns


@dataclass(frozen=True, slots=True)
class Keys:
    """Every row's place as codes."""

    ids: list[Codes]  # five times (n,), codes into `vocabulary`; −1 is unknown
    vocabulary: list[list[str]]
    levels: Codes  # (PATH, n): one code for each distinct key of the level
    parents: list[Codes]  # along PATH (keys,): each key's code in the level above
    words: list[npt.NDArray[Any]]  # along PATH (keys,): the id's code, at last the placement score, NaN for none

    @classmethod
    def of(cls, frame: pd.DataFrame, vocabulary: list[list[str]] | None = None) -> Self:
        """Ids' codes follow the alphabet, so that the order of rows means nothing."""
        ids: list[Codes] = []
        known: list[list[str]] = []
        for position, name in enumerate(ID_COLUMNS):
            words = sorted(frame[name].unique().tolist()) if vocabulary is None else vocabulary[position]
            codes = pd.Index(words, dtype=object).get_indexer(pd.Index(frame[name], dtype=object))
            ids.append(codes.astype(np.int32))
            known.append(words)
        scores = frame["placement_score"].to_numpy(np.float64)
        _, score_codes = np.unique(np.where(np.isnan(scores), NO_SCORE, scores), return_inverse=True)
        levels = np.zeros((len(PATH), len(frame)), np.int32)
        parents: list[Codes] = [np.zeros(1, np.int32)]
        words_of: list[npt.NDArray[Any]] = [np.zeros(1, np.int32)]
        columns: list[tuple[npt.NDArray[Any], npt.NDArray[Any]]] = [*zip(ids, ids, strict=True), (score_codes, scores)]
        for level, (column, values) in enumerate(columns, start=1):
            place = levels[level - 1].astype(np.int64) * (int(column.max(initial=0)) + 2) + column + 1
            levels[level] = pd.factorize(place)[0]
            first = np.unique(levels[level], return_index=True)[1]
            parents.append(levels[level - 1][first])
            words_of.append(values[first])
        return cls(ids, known, levels, parents, words_of)

    @property
    def counts(self) -> list[int]:
        """How many keys each level of PATH has."""
        return [len(words) for words in self.words]


def starts_of(days: Integers) -> Integers:
    """(days + 1,) where each day's rows begin, of (n,) days in ascending order.

    >>> starts_of(np.array([5, 5, 7])).tolist()
    [0, 2, 3]
    """
    first = np.flatnonzero(np.diff(days, prepend=days[:1] - 1)) if len(days) else np.empty(0, np.int64)
    return np.append(first, len(days)).astype(np.int64)


class Known(NamedTuple):
    """What rates say of k keys or rows, before it is put into a row."""

    logs: Sequence[Floats]  # in the order of RATES (k,) log rates, NaN where nothing is known
    payout: Floats  # (k,) log of what the brand pays for a click, NaN likewise
    clicks: Floats  # (k,) decayed clicks of the brand

    def part(self, rows: slice) -> Known:
        return Known([log[rows] for log in self.logs], self.payout[rows], self.clicks[rows])


def expectation(known: Known) -> Floats:
    """(k,) log revenue per exposure, NaN where nobody has earned anything.

    The geometric mean of three ways to look at it: quick to follow a brand, slow to follow it, and clicks × payout,
    which counts as far as the brand has clicks. Together they predict better than any alone.
    """
    by_clicks = known.logs[CLICKED] + known.payout
    weight = np.where(np.isnan(by_clicks), 0.0, known.clicks / (known.clicks + TRUSTED_CLICKS))
    total = known.logs[QUICKLY] + known.logs[STEADILY] + weight * np.nan_to_num(by_clicks)
    mean: Floats = total / (2.0 + weight)
    return mean


def fill(rows: Singles, heads: Floats, known: Known) -> None:
    """The part of rows and heads that rates decide. Exposures and factors are there already.

    Args:
        rows: (k, len(FEATURES)), heads: (k, N_HEADS), written to.
    """
    log = expectation(known)
    rows[:, LOGS_FROM] = log
    rows[:, LOGS_FROM + 1] = known.logs[QUICKLY] - known.logs[STEADILY]
    rows[:, LOGS_FROM + 2] = known.logs[CLICKED]
    rows[:, LOGS_FROM + 3] = known.logs[CONVERTED]
    rows[:, LOGS_FROM + 4] = log - known.logs[SPENT]
    heads[:, 0] = np.exp(np.nan_to_num(log, nan=-np.inf))
    heads[:, 1] = np.minimum(np.exp(np.nan_to_num(known.logs[CLICKED], nan=-np.inf)), 1.0)
    heads[:, 2] = np.exp(np.nan_to_num(known.logs[CONVERTED], nan=-np.inf))
    heads[:, 3] = np.exp(known.logs[SPENT])


class Histories(NamedTuple):
    """What a history says, of each row as of the day before and of each key as of its last day."""

    rows: Known
    rates: list[Floats]  # along PATH (keys, len(RATES)) log rates
    exposures: list[Floats]  # along PATH (keys, half-lives)
    payout: list[Floats]  # of everybody and of brands (keys,)
    clicks: list[Floats]  # likewise

    @classmethod
    def of(cls, days: Integers, keys: Keys, numbers: Floats, rows: Singles | None = None) -> Self:
        """
        Args:
            days: (n,) ascending. Histories fade by days that have data: by the calendar, the first event after a pause
                of the whole feed would find nothing left of what was known.
            keys, numbers: of the same rows, by `Keys.of` and `measures`.
            rows: (n, len(FEATURES)), whose exposures and factors are to be filled.
        """
        starts = starts_of(days)
        broken = payout_breaks(starts, keys, numbers)
        jumps = breaks.jumps(broken, len(starts) - 1, keys.counts[BRAND])
        walks = [
            rates.walk(
                starts,
                keys.levels,
                keys.counts,
                keys.parents,
                numbers[:, numerator],
                numbers[:, denominator],
                believed,
                jumps=jumps if numerator == REVENUE else None,
                factors=None if rows is None or column != QUICKLY else rows[:, FACTORS_FROM:LOGS_FROM],
            )
            for column, (numerator, denominator, believed) in enumerate((*RATES.values(), PAID))
        ]
        *walks, paid = walks
        exposures = rates.fade(
            starts,
            keys.levels,
            keys.counts,
            numbers[:, EXPOSURE],
            HALF_LIVES_DAYS,
            None if rows is None else rows[:, :N_EXPOSURE],
        )
        top = BRAND + 1
        logs = np.empty((len(days), top), np.float32)
        clicked = rates.fade(starts, keys.levels[:top], keys.counts, numbers[:, CLICKS], HALF_LIVES_DAYS[-1:], logs)
        known = Known([walk.logs for walk in walks], paid.logs, np.expm1(logs[:, BRAND].astype(np.float64)))
        tables = [np.column_stack(level) for level in zip(*(walk.state for walk in walks), strict=True)]
        return cls(known, tables, exposures, paid.state, [sums[:, 0] for sums in clicked])


def payout_breaks(starts: Integers, keys: Keys, numbers: Floats) -> list[breaks.Break]:
    """Of brands' payouts, day by day.

    Args:
        starts: (days + 1,) where each day's rows begin.
    """
    n_days, n_brands = len(starts) - 1, keys.counts[BRAND]
    day_of_row = np.repeat(np.arange(n_days), np.diff(starts))
    return breaks.find(
        *(
            breaks.by_day(day_of_row, keys.levels[BRAND], numbers[:, column], n_days, n_brands)
            for column in (REVENUE, CLICKS, EXPOSURE)
        )
    )


def as_of_the_day_before(frame: pd.DataFrame, keys: Keys, numbers: Floats) -> tuple[Singles, Floats]:
    """((n, len(FEATURES)) matrix, (n, N_HEADS) heads): every row as what was known before its day.

    Args:
        frame: a history (see `training.read_history`) in the order of its days.
        keys, numbers: of the same rows, by `Keys.of` and `measures`.
    """
    days = frame["day"].to_numpy(np.int64)
    out = np.empty((len(frame), len(FEATURES)), np.float32)
    heads = np.empty((len(frame), N_HEADS))
    known = Histories.of(days, keys, numbers, out).rows
    for start in range(0, len(frame), FILLED_TOGETHER):
        some = slice(start, start + FILLED_TOGETHER)
        fill(out[some], heads[some], known.part(some))
    for position, column in enumerate(CODED):
        out[:, CODES_FROM + position] = keys.ids[column]
    out[:, PLACEMENT] = frame["placement_score"].to_numpy(np.float64)
    out[:, DAY_OF_WEEK] = (days + 3) % 7
    out[:, HOUR] = frame["hour"].to_numpy(np.float64)
    return out, heads


class Confidence(NamedTuple):
    impressions: float
    """Decayed impressions behind the prediction, at the level below."""
    level: str
    """The deepest level with a history of its own: one of LEVELS, or `all` for an unseen brand."""


Key = tuple[Any, ...]


class Encoder:
    """A version's tables: what its last training day has left to say of every key, looked up in memory."""

    def __init__(
        self,
        vocabulary: list[list[str]],
        parents: list[Codes],
        words: list[npt.NDArray[Any]],
        rates: list[Floats],
        exposures: list[Floats],
        payout: list[Floats],
        clicks: list[Floats],
    ) -> None:
        """
        Args:
            vocabulary: five lists of ids.
            parents, words: along PATH, see `Keys`.
            rates, exposures: along PATH, see `Histories`.
            payout, clicks: of everybody and of brands, see `Histories`.

        Raises:
            ValueError: they do not go together.
        """
        self.vocabulary, self._parents, self._words = vocabulary, parents, words
        self._rates, self._exposures, self._payout, self._clicks = rates, exposures, payout, clicks
        self._check()
        self._codes = [
            {word: code for code, word in enumerate(known)} if position in CODED else {}
            for position, known in enumerate(vocabulary)
        ]
        self._row_of, self._keys = self._places()
        """Of each key of each level, and of everybody: its place in the tables below; and the deepest level's keys."""
        self._rows, self._heads = self._filled()

    @classmethod
    def fitted(cls, days: Integers, keys: Keys, numbers: Floats) -> Self:
        """As of the end of the last of `days`: what the next day may know. Arguments as of `Histories.of`."""
        histories = Histories.of(days, keys, numbers)
        return cls(
            keys.vocabulary,
            keys.parents,
            keys.words,
            histories.rates,
            histories.exposures,
            histories.payout,
            histories.clicks,
        )

    def __len__(self) -> int:
        """Tuples that are known."""
        return len(self._keys)

    def tuples(self, picked: Integers) -> tuple[list[list[str]], list[float | None]]:
        """(five columns of ids, placement scores) of some known tuples, by their positions."""
        keys = [self._keys[position] for position in picked.tolist()]
        ids = [[key[column] for key in keys] for column in range(len(ID_COLUMNS))]
        return ids, [None if key[-1] == NO_SCORE else key[-1] for key in keys]

    def _check(self) -> None:
        """What comes out of a file becomes indices."""
        counts = [len(words) for words in self._words]
        if len(self.vocabulary) != len(ID_COLUMNS) or len(counts) != len(PATH) or counts[0] != 1:
            raise ValueError("the tables have other levels than this program")
        for level in range(1, len(PATH)):
            parents, words = self._parents[level], self._words[level]
            most = len(self.vocabulary[level - 1]) if level <= len(ID_COLUMNS) else None
            if parents.shape != (counts[level],) or words.shape != (counts[level],):
                raise ValueError(f"the keys of level {PATH[level]} do not go together")
            if counts[level] and not (parents.min() >= 0 and parents.max() < counts[level - 1]):
                raise ValueError(f"a key of level {PATH[level]} has no parent")
            if most is not None and counts[level] and not (words.min() >= 0 and words.max() < most):
                raise ValueError(f"a key of level {PATH[level]} has no id")
        for level, count in enumerate(counts):
            if self._rates[level].shape != (count, len(RATES)):
                raise ValueError(f"the rates of level {PATH[level]} do not go with its keys")
            if self._exposures[level].shape != (count, len(HALF_LIVES_DAYS)):
                raise ValueError(f"the exposures of level {PATH[level]} do not go with its keys")
            if level <= BRAND and not (self._payout[level].shape == self._clicks[level].shape == (count,)):
                raise ValueError("the payouts do not go with the brands")

    def _places(self) -> tuple[dict[Key, int], list[Key]]:
        row_of: dict[Key, int] = {(): 0}
        above: list[Key] = [()]
        for level in range(1, len(PATH)):
            if level <= len(ID_COLUMNS):
                known = self.vocabulary[level - 1]
                words: list[Any] = [known[code] for code in self._words[level].tolist()]
            else:
                words = np.where(np.isnan(self._words[level]), NO_SCORE, self._words[level]).tolist()
            parents = self._parents[level].tolist()
            above = [(*above[parent], word) for parent, word in zip(parents, words, strict=True)]
            row_of.update(zip(above, range(len(row_of), len(row_of) + len(above)), strict=True))
        return row_of, above

    def _filled(self) -> tuple[Singles, Floats]:
        """What is looked up: (r, len(FEATURES)) rows; (r, N_HEADS) heads and the exposure by the longest half-life.

        A key's row is filled as it is where nothing deeper is known. What deeper levels would add, they have in theirs.
        """
        number = sum(len(words) for words in self._words)
        rows, heads = np.empty((number, len(FEATURES)), np.float32), np.empty((number, N_HEADS + 1))
        exposures = np.zeros((1, N_EXPOSURE), np.float32)
        factors = np.zeros((1, len(LEVELS)), np.float32)
        payout, clicks = self._payout[0], np.zeros(1)
        codes = np.full((1, len(CODED)), -1.0, np.float32)
        each = len(HALF_LIVES_DAYS)
        start = 0
        for level in range(len(PATH)):
            parents, end = self._parents[level], start + len(self._words[level])
            if level:
                exposures, factors, codes = exposures[parents], factors[parents], codes[parents]
                with np.errstate(invalid="ignore"):
                    own = self._rates[level][:, QUICKLY] - self._rates[level - 1][parents, QUICKLY]
                factors[:, level - 1] = own
                payout, clicks = payout[parents], clicks[parents]
            if level == BRAND:
                payout, clicks = self._payout[BRAND], self._clicks[BRAND]
            if level - 1 in CODED:
                codes[:, CODED.index(level - 1)] = self._words[level]
            exposures[:, level * each : (level + 1) * each] = np.log1p(self._exposures[level])
            rows[start:end, :N_EXPOSURE] = exposures
            rows[start:end, FACTORS_FROM:LOGS_FROM] = factors
            fill(rows[start:end], heads[start:end], Known(list(self._rates[level].T), payout, clicks))
            rows[start:end, CODES_FROM:PLACEMENT] = codes
            start = end
        rows[:, PLACEMENT], rows[:, DAY_OF_WEEK], rows[:, HOUR] = np.nan, 0.0, NO_HOUR
        heads[:, N_HEADS] = np.concatenate([level[:, -1] for level in self._exposures])
        return rows, heads

    def encode(
        self, ids: Sequence[Sequence[str]], placement_score: Floats, at: Integers | None = None
    ) -> tuple[Singles, Floats]:
        """Columns of bids → ((n, len(FEATURES)) matrix; (n, N_HEADS + 1) heads and the tuple's own impressions so far).

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
            heads[n, N_HEADS] = 0.0
            for position, column in enumerate(CODED):
                if column >= depth:
                    out[n, CODES_FROM + position] = self._codes[column].get(keys[n][column], -1)
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
            if row is not None and (impressions := float(self._heads[row, N_HEADS])) > 0:
                return Confidence(impressions, LEVELS[depth - 1])
        return Confidence(float(self._heads[0, N_HEADS]), "all")

    def to_document(self) -> dict[str, Any]:
        """JSON, exact to the bit."""
        tables = {
            "parents": self._parents,
            "words": self._words,
            "rates": self._rates,
            "exposures": self._exposures,
            "payout": self._payout,
            "clicks": self._clicks,
        }
        return {
            "vocabulary": self.vocabulary,
            "half_lives_days": list(HALF_LIVES_DAYS),
            "rates_of": list(RATES),
            **{name: [to_text(array) for array in arrays] for name, arrays in tables.items()},
        }

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> Self:
        """
        Raises:
            ValueError, KeyError, TypeError: not an encoder of this program.
        """
        if document["half_lives_days"] != list(HALF_LIVES_DAYS) or document["rates_of"] != list(RATES):
            raise ValueError("the encoder keeps other histories than this program reads")
        names = ("parents", "words", "rates", "exposures", "payout", "clicks")
        return cls(document["vocabulary"], *([from_text(array) for array in document[name]] for name in names))
