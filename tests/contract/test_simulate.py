"""The command `training.simulate`: what it reads, refuses and writes, and how near it comes to the optimum."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ledger.bidding.brand_state import Limits
from training.pricing.auctions import COLUMNS, Auctions, AuctionTerms, read_auctions, read_market
from training.pricing.evaluate import main as judge_main
from training.pricing.optimum import BrandOffers, evaluate, optimum, optimum_by_highs
from training.pricing.simulation import simulate
from training.pricing.synthetic_market import make_market
from training.simulate import main

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
TEST, TRAIN = DATA / "auctions_1458.test.csv.gz", DATA / "auctions_1458.train.csv.gz"
needs_data = pytest.mark.skipif(not TEST.exists(), reason="../shared/data is not there")


def lognormal(n: int = 20_000, seed: int = 0, bias: float = 1.0, halve: bool = False) -> pd.DataFrame:
    """A smooth market of one brand; predictions are `bias` times what comes."""
    draw = np.random.default_rng(seed)
    cost = np.ceil(700 * np.exp(draw.normal(0, 0.6, n)))
    revenue = cost * 1.5 * np.exp(draw.normal(0, 1, n) - 0.5)
    if halve:
        revenue[n // 2 :] /= 2
    columns = (np.arange(n) * 4.0, np.repeat("b-1", n), revenue * bias, cost, revenue, cost)
    return pd.DataFrame(dict(zip(COLUMNS, columns, strict=True)))


class Outcome:
    """What was decided on one brand's auctions, beside the best that could have been."""

    def __init__(self, frame: pd.DataFrame, out: Path, target: float, budget: float | None) -> None:
        self.decisions = pd.read_csv(out)
        assert list(self.decisions.columns) == ["won", "lambda"] and len(self.decisions) == len(frame)
        won = self.decisions.won.to_numpy().astype(bool)
        revenue, cost = frame.predicted_revenue_micros.to_numpy(), frame.cost_micros.to_numpy()
        self.cost = float(cost[won].sum())
        self.roas = float(revenue[won].sum()) / self.cost
        self.real_roas = float(frame.revenue_micros[won].sum()) / self.cost
        best = optimum([BrandOffers(revenue, cost, Limits(target, budget))], Limits())
        self.of_optimum = float(revenue[won].sum()) / best


@pytest.fixture
def play(tmp_path: Path):
    def run(frame: pd.DataFrame, target: float, budget: float | None = None, *more: str) -> Outcome:
        path, out = tmp_path / "auctions.csv", tmp_path / "decisions.csv"
        frame.to_csv(path, index=False)
        money = () if budget is None else ("--budget-micros", str(budget))
        assert main(["--auctions", str(path), "--target-roas", str(target), "--out", str(out), *money, *more]) == 0
        return Outcome(frame, out, target, budget)

    return run


@pytest.mark.parametrize("target", [1.7, 2.5])
@pytest.mark.parametrize("share", [None, 0.1, 0.03])
def test_a_cold_start_comes_near_the_optimum_and_home(play, target, share):
    frame = lognormal()
    budget = None if share is None else math.floor(share * frame.cost_micros.sum())
    outcome = play(frame, target, budget)
    assert outcome.of_optimum >= 0.97 and outcome.roas >= 0.998 * target
    assert budget is None or outcome.cost <= budget


@pytest.mark.parametrize("times", [1 / 3, 3.0])
def test_a_wrong_lambda0_washes_out(play, times):
    outcome = play(lognormal(), 2.0, None, "--lambda0", str(0.9 * times))
    assert outcome.decisions["lambda"][0] == 0.9 * times
    assert outcome.of_optimum >= 0.97 and outcome.roas >= 0.998 * 2.0


def test_revenue_that_halves_at_noon_is_followed(play):
    outcome = play(lognormal(halve=True), 1.5)
    assert outcome.of_optimum >= 0.96 and outcome.roas >= 0.995 * 1.5


def test_predictions_that_are_too_high_are_found_out(play):
    outcome = play(lognormal(bias=1.3), 2.0, None, "--feedback", "realised")
    assert outcome.real_roas >= 0.98 * 2.0


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_the_currency_does_not_matter(play, scale):
    frame = lognormal(5_000)
    budget = 0.2 * frame.cost_micros.sum()
    scaled = frame.assign(**{name: frame[name] * scale for name in COLUMNS[2:]})
    outcome, base = play(scaled, 2.0, math.floor(budget * scale)), play(frame, 2.0, budget)
    assert outcome.of_optimum == pytest.approx(base.of_optimum, abs=0.01)
    assert outcome.cost <= budget * scale


def test_the_same_file_is_decided_the_same(play):
    frame = lognormal(3_000)
    first, second = play(frame, 2.0, 1e5), play(frame, 2.0, 1e5)
    assert first.decisions.equals(second.decisions)


def test_a_decision_does_not_know_what_comes_after_it(play):
    frame, other = lognormal(4_000), lognormal(4_000)
    other.loc[2_000:, "predicted_revenue_micros"] *= 9.0
    other["revenue_micros"] = 0.0
    one, two = (play(each, 2.0, 1e6).decisions for each in (frame, other))
    assert one[:2_000].equals(two[:2_000]) and not one.equals(two)


def test_lambda_says_what_is_worth_winning_and_slack_what_may_be_won_below_the_target(play):
    frame = lognormal(3_000)
    decisions = play(frame, 2.0).decisions
    won, revenue, cost = decisions.won.astype(bool), frame.predicted_revenue_micros, frame.predicted_cost_micros
    worth = revenue >= decisions["lambda"] * cost
    assert worth[won].all()
    assert won[worth & (revenue >= 2.0 * cost)].all(), "at or above the target nothing else is needed"
    surplus = np.where(won, revenue - 2.0 * cost, 0.0).cumsum()
    whole_micros = 3.0  # a win's cost and revenue are booked in whole micros
    assert surplus.min() >= -whole_micros, "at no time below the target"
    short = worth & ~won
    assert 0 < short.sum() < 0.05 * worth.sum()
    assert (surplus[short] < (2.0 * cost - revenue)[short] + whole_micros).all(), "refused only what it did not cover"


def test_a_budget_below_every_cost_wins_nothing(tmp_path):
    path, out = tmp_path / "a.csv", tmp_path / "d.csv"
    lognormal(100).assign(predicted_cost_micros=50.0, cost_micros=50.0).to_csv(path, index=False)
    assert main(["--auctions", str(path), "--target-roas", "2", "--budget-micros", "49", "--out", str(out)]) == 0
    assert pd.read_csv(out).won.sum() == 0


@pytest.mark.parametrize("rows", [1, 2])
def test_the_shortest_files_are_decided(tmp_path, rows):
    path, out = tmp_path / "a.csv", tmp_path / "d.csv"
    lognormal(rows).to_csv(path, index=False)
    assert main(["--auctions", str(path), "--target-roas", "2", "--out", str(out)]) == 0
    assert len(pd.read_csv(out)) == rows


def test_portfolios_are_decided_jointly(tmp_path, capsys):
    assert judge_main(["--make-market", str(tmp_path), "--market-brands", "6", "--market-portfolios", "2",
                       "--market-rows", "5000", "--seed", "3"]) == 0  # fmt: skip
    auctions, brands, out = tmp_path / "auctions.csv.gz", tmp_path / "brands.json", tmp_path / "d.csv"
    assert main(["--auctions", str(auctions), "--brands", str(brands), "--out", str(out)]) == 0
    assert judge_main([str(out), "--auctions", str(auctions), "--brands", str(brands)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["of_optimum"] >= 0.98
    assert found["roas_to_target"][0] >= 0.995 and found["spend_to_budget"][0] <= 1.0


@pytest.mark.parametrize("seed", range(6))
def test_the_judges_two_solvers_agree(tmp_path, seed):
    frame, document = make_market(seed, brands=6, portfolios=2, rows_a_brand=60)
    frame.to_csv(tmp_path / "a.csv", index=False)
    (tmp_path / "b.json").write_text(json.dumps(document))
    auctions = read_auctions(tmp_path / "a.csv")
    for _, members, shared in read_market(tmp_path / "b.json", auctions.names).groups():
        rows = [auctions.brand == b for b in members]
        limits = read_market(tmp_path / "b.json", auctions.names).limits
        items = [
            BrandOffers(auctions.predicted_revenue[mine], auctions.cost[mine], limits[b])
            for b, mine in zip(members, rows, strict=True)
        ]
        assert optimum(items, shared) == pytest.approx(optimum_by_highs(items, shared), rel=1e-7)


def test_the_judge_sees_a_broken_limit(tmp_path):
    frame, document = make_market(1, brands=2, portfolios=1, rows_a_brand=100)
    frame.to_csv(tmp_path / "a.csv", index=False)
    (tmp_path / "b.json").write_text(json.dumps(document))
    auctions = read_auctions(tmp_path / "a.csv")
    found = evaluate(auctions, read_market(tmp_path / "b.json", auctions.names), np.ones(200, dtype=bool))
    assert json.loads(json.dumps(found))["spend_to_budget"][0] > 1.0


def test_lambda0_is_printed_alone_and_a_longer_file_has_more_budget(tmp_path, capsys):
    path = tmp_path / "earlier.csv"
    frame = lognormal(5_000)
    frame.to_csv(path, index=False)
    length, printed = float(frame.t_s.iloc[-1]), []
    for horizon, budget in ((length, 4e5), (length / 2, 2e5), (length, 2e5)):
        assert main(["--fit-lambda", str(path), "--target-roas", "1.2", "--budget-micros", str(budget),
                     "--horizon-s", str(horizon)]) == 0  # fmt: skip
        printed.append(float(capsys.readouterr().out))
    assert printed[0] == pytest.approx(printed[1], rel=1e-6) and printed[2] > printed[0]


def rows(*changed: tuple[int, str, str]) -> str:
    lines = [list(COLUMNS), *(["0", "b-1", "1000", "500", "0", "500"] for _ in range(3))]
    for row, column, value in changed:
        lines[row][COLUMNS.index(column)] = value
    return "\n".join(",".join(line) for line in lines) + "\n"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "is empty"),
        (",".join(COLUMNS) + "\n", "has no rows"),
        (rows((0, "cost_micros", "price")), "no column cost_micros"),
        (rows((2, "cost_micros", "cheap")), "row 2: cost_micros 'cheap' is not a number"),
        (rows((3, "predicted_revenue_micros", "")), "row 3: predicted_revenue_micros '' is not a number"),
        (rows((1, "predicted_revenue_micros", "nan")), "row 1: predicted_revenue_micros 'nan' is not a number"),
        (rows((1, "revenue_micros", "inf")), "row 1: revenue_micros 'inf' is not a number"),
        (rows((2, "predicted_cost_micros", "-1")), "row 2: predicted_cost_micros '-1' is negative"),
        (rows((2, "cost_micros", "1e300")), "row 2: cost_micros '1e300' is too large"),
        (rows((1, "t_s", "5")), "row 2: t_s goes back in time"),
        (rows((2, "brand_id", "b 1")), "row 2: brand_id 'b 1' is not an id"),
        (rows((2, "brand_id", "..")), "row 2: brand_id '..' is not an id"),
    ],
)
def test_a_bad_file_is_refused_in_one_line_and_nothing_is_written(tmp_path, capsys, content, said):
    path, out = tmp_path / "a.csv", tmp_path / "d.csv"
    path.write_text(content)
    assert main(["--auctions", str(path), "--target-roas", "2", "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert [file.name for file in tmp_path.iterdir()] == ["a.csv"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--target-roas", "0"], "--target-roas 0.0"),
        (["--target-roas", "nan"], "--target-roas nan"),
        (["--target-roas", "inf"], "--target-roas inf"),
        (["--target-roas", "2", "--budget-micros", "0"], "--budget-micros"),
        (["--target-roas", "2", "--budget-micros", "-5"], "--budget-micros"),
        (["--target-roas", "2", "--budget-micros", "0.5"], "--budget-micros"),
        (["--target-roas", "2", "--lambda0", "-1"], "--lambda0"),
        (["--target-roas", "2", "--horizon-s", "0"], "--horizon-s"),
        ([], "--target-roas is needed"),
    ],
)
def test_a_bad_option_is_refused(tmp_path, capsys, options, said):
    path, out = tmp_path / "a.csv", tmp_path / "d.csv"
    path.write_text(rows())
    assert main(["--auctions", str(path), "--out", str(out), *options]) == 2
    assert said in capsys.readouterr().err and not out.exists()


def test_files_that_are_not_there_or_not_csv_are_refused(tmp_path, capsys):
    broken = tmp_path / "broken.csv.gz"
    broken.write_bytes(gzip.compress(rows().encode())[:-12])
    plain = tmp_path / "plain.csv.gz"
    plain.write_text(rows())
    for path in (tmp_path / "nowhere.csv", tmp_path, broken, plain):
        assert main(["--auctions", str(path), "--target-roas", "2", "--out", str(tmp_path / "d.csv")]) == 2
        assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"brands": {"b-1": {"target_roas": 0}}}, "brands.b-1.target_roas"),
        ({"brands": {"b-1": {"target_roas": 2, "budget": 5}}}, "brands.b-1.budget"),
        ({"brands": {"b-1": {"target_roas": 2, "portfolio_id": "p"}}}, "portfolio p"),
        ({"brands": {}}, "nothing on brand b-1"),
        ({"brand": {}}, "Field required"),
    ],
)
def test_a_bad_brands_file_is_refused(tmp_path, capsys, document, said):
    path, brands = tmp_path / "a.csv", tmp_path / "brands.json"
    path.write_text(rows())
    brands.write_text(json.dumps(document))
    assert main(["--auctions", str(path), "--brands", str(brands), "--out", str(tmp_path / "d.csv")]) == 2
    assert said in capsys.readouterr().err


def test_an_interrupted_run_leaves_nothing(tmp_path, monkeypatch):
    path, out = tmp_path / "a.csv", tmp_path / "d.csv"
    path.write_text(rows())
    out.write_text("earlier")

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupted)
    assert main(["--auctions", str(path), "--target-roas", "2", "--out", str(out)]) == 130
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.csv", "d.csv"] and out.read_text() == "earlier"


@needs_data
@pytest.mark.parametrize(("target", "share"), [(6, 1.0), (8, 0.25), (20, 1 / 32)])
def test_real_auctions(tmp_path, capsys, target, share):
    frame, out = pd.read_csv(TEST), tmp_path / "d.csv"
    budget = math.floor(share * frame.cost_micros.sum())
    terms = ["--target-roas", str(target), "--budget-micros", str(budget)]
    assert main([*terms, "--auctions", str(TEST), "--out", str(out)]) == 0
    cold = Outcome(frame, out, target, budget)
    assert cold.of_optimum >= 0.985 and cold.roas >= 0.998 * target and cold.cost <= budget
    assert main([*terms, "--auctions", str(TEST), "--out", str(out), "--fit-lambda", str(TRAIN)]) == 0
    warm = Outcome(frame, out, target, budget)
    assert float(capsys.readouterr().out) > 0.0
    assert warm.of_optimum >= cold.of_optimum - 0.003 and warm.roas >= 0.998 * target


@pytest.mark.parametrize("share", [0.5, 0.35])
def test_lambda_rises_above_the_target_where_revenue_falls_short(share):
    """What is predicted to be worth the target is not, when only a share of it comes."""
    draw, n = np.random.default_rng(1), 20_000
    cost = np.full(n, 1000.0)
    predicted = cost * draw.lognormal(0.0, 0.6, n)
    times = np.sort(draw.uniform(0, 86_400, n))
    auctions = Auctions(times, np.zeros(n, np.intp), ["b"], predicted, cost, share * predicted, cost)
    market = read_market(None, ["b"], AuctionTerms(target_roas=1.0, daily_budget_micros=None, lambda0=None))
    decided = simulate(auctions, market, 86_400.0, realised=True)
    assert decided.lambda_[n // 2] > 1.1
    assert share * predicted[decided.won].sum() / cost[decided.won].sum() >= 0.99


def test_what_is_read_is_not_written_over(tmp_path, capsys):
    file = tmp_path / "a.csv"
    file.write_text(
        "t_s,brand_id,predicted_revenue_micros,predicted_cost_micros,revenue_micros,cost_micros\n1,b,2,1,2,1\n"
    )
    before = file.read_text()
    assert main(["--auctions", str(file), "--target-roas", "1", "--out", str(file)]) == 2
    assert main(["--auctions", str(file), "--target-roas", "1", "--out", "/dev/null"]) == 2
    assert file.read_text() == before and not Path("/dev/null").is_file()
    said = capsys.readouterr().err
    assert "would overwrite" in said and "is not a file" in said
