"""/metrics for the whole application: each replica adds its counts to Redis, and any replica shows the totals."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_args

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from redis.asyncio import Redis
from redis.exceptions import RedisError

from db.outage import Outage
from ledger.service.gauges import Gauges, read_gauges
from serve_app.schemas.performance import EventStatus

logger = logging.getLogger("paceline.monitor")

COUNTERS_KEY = "paceline:counters"
BUCKETS_S = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
FLUSH_S = 1.0
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Tally:
    """Counts of this replica that are not in Redis yet."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._latency_sum = 0.0

    def scored(self, status: int, seconds: float) -> None:
        """Count an answer of POST /api/score. `status`: HTTP's; 499 for a client that left first."""
        self._counts[f"score_requests_total|{status}"] += 1
        self._counts[f"score_latency_seconds|{bisect_left(BUCKETS_S, seconds)}"] += 1
        self._latency_sum += seconds

    def bids(self, number: int) -> None:
        self._counts["bids_scored_total|"] += number

    def events(self, statuses: Mapping[str, int]) -> None:
        for status, number in statuses.items():
            self._counts[f"events_total|{status}"] += number

    def dropped(self, rows: int) -> None:
        """Count rows that did not reach score_log."""
        self._counts["score_log_dropped_total|"] += rows

    def take(self) -> tuple[Counter[str], float]:
        """(counts by field, sum of latencies in seconds) since the last call, which start again at zero."""
        taken = self._counts, self._latency_sum
        self._counts, self._latency_sum = Counter(), 0.0
        return taken

    def put_back(self, counts: Counter[str], latency_sum: float) -> None:
        """Undo a `take` whose counts could not be stored."""
        self._counts.update(counts)
        self._latency_sum += latency_sum


class Monitor:
    """This replica's tally, and the totals of all replicas in Redis."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._outage = Outage(logger, "Redis answers again: the counts that waited are in /metrics")
        self.tally = Tally()

    async def flush(self) -> None:
        """Add this replica's counts to the totals in Redis; keep them for the next flush if Redis does not answer."""
        counts, latency_sum = self.tally.take()
        if not counts:
            return
        try:
            async with self._redis.pipeline(transaction=True) as pipe:
                for field, number in counts.items():
                    pipe.hincrby(COUNTERS_KEY, field, number)
                if latency_sum:
                    pipe.hincrbyfloat(COUNTERS_KEY, "score_latency_seconds|sum", latency_sum)
                await pipe.execute()
        except (RedisError, OSError) as error:
            self.tally.put_back(counts, latency_sum)
            self._outage.failed(f"Redis unavailable, /metrics stands still until it answers, no count is lost: {error}")
        else:
            self._outage.ended()

    async def keep_flushing(self) -> None:
        """Flush every FLUSH_S seconds until cancelled."""
        while True:
            await asyncio.sleep(FLUSH_S)
            await self.flush()

    async def render(
        self,
        model: tuple[str, float] | None,
        last_night: str | None,
        broken: Sequence[str],
        keys: tuple[float, bool] = (math.nan, False),
    ) -> bytes:
        """The text of /metrics.

        Args:
            model: the live version and the time (epoch seconds) at which it was made.
            last_night: outcome of the last nightly run (see the table `nights`); None if there was none, or if the
                database does not answer.
            broken: brands whose payout per click or impression has changed within the last three days.
            keys: (seconds since the token keys in use were read, whether they cannot be read now).

        Raises:
            RedisError, OSError: Redis does not answer; counters without its totals would look like a reset.
        """
        await self.flush()
        raw: dict[Any, Any] = await self._redis.hgetall(COUNTERS_KEY)
        counts = {_text(name): float(value) for name, value in raw.items()}
        gauges = await read_gauges(self._redis)
        registry = CollectorRegistry()
        families = [*_counters(counts), *_model(model), *_night(last_night), *_keys(keys), *_gauges(gauges)]
        registry.register(_Collected([*families, _broken(gauges, broken)]))
        return generate_latest(registry)


class _Collected:
    """What prometheus_client asks of a collector: these metric families."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _labelled(counts: Mapping[str, float], name: str) -> dict[str, float]:
    return {field.partition("|")[2]: value for field, value in counts.items() if field.partition("|")[0] == name}


def _counters(counts: Mapping[str, float]) -> list[Metric]:
    requests = CounterMetricFamily(
        "score_requests", "Answers of POST /api/score by HTTP status; 499: the client left first", labels=["status"]
    )
    for status, value in sorted(({"200": 0.0} | _labelled(counts, "score_requests_total")).items()):
        requests.add_metric([status], value)
    events = CounterMetricFamily("events", "Events of POST /api/performance by result", labels=["status"])
    for status, value in (dict.fromkeys(get_args(EventStatus), 0.0) | _labelled(counts, "events_total")).items():
        events.add_metric([status], value)
    bids = CounterMetricFamily(
        "bids_scored", "Bids that were given a score", value=counts.get("bids_scored_total|", 0.0)
    )
    dropped = CounterMetricFamily(
        "score_log_dropped",
        "Sampled bids that were not written to score_log: over log_rows_per_s, or the database failed",
        value=counts.get("score_log_dropped_total|", 0.0),
    )
    latency = _labelled(counts, "score_latency_seconds")
    buckets, total = [], 0.0
    for index, bound in enumerate([*BUCKETS_S, math.inf]):
        total += latency.get(str(index), 0.0)
        buckets.append(("+Inf" if math.isinf(bound) else repr(bound), total))
    histogram = HistogramMetricFamily(
        "score_latency_seconds", "Seconds to answer POST /api/score, measured in the replica"
    )
    histogram.add_metric([], buckets, latency.get("sum", 0.0))
    return [requests, histogram, bids, events, dropped]


def _model(model: tuple[str, float] | None) -> list[Metric]:
    info = GaugeMetricFamily("model_info", "1 for the live model version", labels=["version"])
    age = GaugeMetricFamily("model_age_seconds", "Seconds since the live model was trained")
    if model is not None:
        info.add_metric([model[0]], 1)
    age.add_metric([], time.time() - model[1] if model is not None else math.nan)
    return [info, age]


def _night(outcome: str | None) -> list[Metric]:
    """Three gauges, 1 for the outcome of the last nightly run, until a later run ends otherwise."""
    return [
        GaugeMetricFamily(name, text, value=float(outcome == ended))
        for name, text, ended in (
            ("model_challenger_rejected", "1: the gate rejected the last nightly run's model", "stayed"),
            (
                "model_night_unverified",
                "1: the last nightly run's model is live, but not intact everywhere",
                "unverified",
            ),
            ("model_night_failed", "1: the last nightly run failed", "failed"),
        )
    ]


def _keys(keys: tuple[float, bool]) -> list[Metric]:
    """Of the replica that is asked; all of them read the same set."""
    age, failing = (
        "Seconds since the token keys in use were read from PACELINE_JWKS; NaN without",
        "1 while the token keys cannot be read from PACELINE_JWKS, and the last good ones are used",
    )
    return [
        GaugeMetricFamily("paceline_jwks_age_seconds", age, value=keys[0]),
        GaugeMetricFamily("paceline_jwks_failing", failing, value=float(keys[1])),
    ]


def _broken(gauges: Gauges | None, broken: Sequence[str]) -> Metric:
    family = GaugeMetricFamily(
        "brand_payout_broken", "1: the brand's payout has changed abruptly within three days", labels=["brand_id"]
    )
    for brand_id in sorted({*broken, *(gauges.brands if gauges is not None else ())}):
        family.add_metric([brand_id], float(brand_id in broken))
    return family


def _gauges(gauges: Gauges | None) -> list[Metric]:
    def family(name: str, text: str, label: str = "brand_id") -> GaugeMetricFamily:
        return GaugeMetricFamily(name, text, labels=[label])

    roas, target = (
        family("brand_roas_current", "ROAS (revenue ÷ cost) over the ROAS window"),
        family("brand_roas_target", "Target ROAS of the brand"),
    )
    lambda_, throttled = (
        family("brand_lambda", "λ, the price of a micro of cost in the score"),
        family("brand_throttled", "1 while the brand's share of auctions is reduced because its ROAS is too low"),
    )
    overspend = family("brand_overspend_micros", "Micros settled beyond today's budget")
    frozen = family("brand_frozen", "1 while the brand is on last night's λ because λ or spending left its limits")
    budget = GaugeMetricFamily("brand_budget_micros", "Micros of today's budget by state", labels=["brand_id", "state"])
    portfolio = family("portfolio_roas_current", "ROAS (revenue ÷ cost) over the ROAS window", "portfolio_id")
    portfolio_target = family("portfolio_roas_target", "Target ROAS of the portfolio", "portfolio_id")
    epoch = family("ledger_epoch", "Epoch of the shard's writer; rises when another process takes over", "shard")
    if gauges is not None:
        for brand_id, brand in sorted(gauges.brands.items()):
            roas.add_metric([brand_id], _number(brand.roas_current))
            target.add_metric([brand_id], brand.roas_target)
            lambda_.add_metric([brand_id], brand.lambda_)
            throttled.add_metric([brand_id], float(brand.throttled))
            overspend.add_metric([brand_id], brand.overspend_micros)
            frozen.add_metric([brand_id], float(brand.frozen))
            for state, micros in brand.budget_micros.items():
                budget.add_metric([brand_id, state], _number(micros, math.inf))
        for portfolio_id, entry in sorted(gauges.portfolios.items()):
            portfolio.add_metric([portfolio_id], _number(entry.roas_current))
            portfolio_target.add_metric([portfolio_id], entry.roas_target)
        for shard, number in gauges.ledger_epoch.items():
            epoch.add_metric([str(shard)], number)
    return [roas, target, lambda_, throttled, portfolio, portfolio_target, budget, overspend, frozen, epoch]


def _number(value: float | None, missing: float = math.nan) -> float:
    return missing if value is None else float(value)
