import csv
import datetime as dt
import gzip
import json
from pathlib import Path

import pytest

from tests.unit.training.pages import sections_of
from training.backtest import main
from training.etl.row_parser import CANONICAL
from training.settings import ModelSettings
from training.walk_forward import PREDICTED, run

ONLINE_ADS = Path(__file__).resolve().parents[4] / "shared" / "data" / "online_ads.csv.gz"
HEADER = ",".join([*CANONICAL, "note"])
FAST = ModelSettings(trees=10, min_rows_in_leaf=2)


def written(tmp_path, later_revenue="1.50"):
    lines = [HEADER]
    for day in range(1, 11):
        for slot in range(6):
            revenue = later_revenue if day > 8 else f"{0.1 * slot + 0.5:.2f}"
            lines.append(f"2020-04-{day:02}T00:00:00Z,b,p,s{slot},,300x250,,1000,5,1,,{revenue},n{slot}")
    lines.insert(20, "rubbish")
    path = tmp_path / "perf.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def walked(path, out, first=5, last=8, engines=()):
    return run(path, dt.date(2020, 4, first), dt.date(2020, 4, last), out, FAST, lambda _line: None, engines)


def test_predictions_are_the_days_rows_as_they_stand_and_three_columns(tmp_path):
    path = written(tmp_path)
    found = walked(path, tmp_path / "out")
    rows = list(csv.reader((tmp_path / "out" / "predictions.csv").open()))
    assert rows[0] == [*HEADER.split(","), *PREDICTED]
    wanted = [line.split(",") for line in path.read_text().splitlines() if "T00" in line and "04" < line[8:10] < "09"]
    assert [row[:-3] for row in rows[1:]] == wanted
    assert all(float(row[-3]) > 0 for row in rows[1:])
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == found
    assert found["rejected"] == 1
    page = (tmp_path / "out" / "report.html").read_text()
    assert sections_of(page) == ["figures", "calibration", "days", "error", "importance", "shap", "breaks"]


def test_later_days_change_no_prediction(tmp_path):
    walked(written(tmp_path), tmp_path / "a")
    walked(written(tmp_path, later_revenue="99"), tmp_path / "b")
    assert (tmp_path / "a" / "predictions.csv").read_bytes() == (tmp_path / "b" / "predictions.csv").read_bytes()


def test_a_days_own_results_change_no_prediction_of_it(tmp_path):
    predicted = []
    for revenue in ("1.50", "99"):
        walked(written(tmp_path, later_revenue=revenue), tmp_path / "out", 9, 9)
        predicted.append([row[-3:] for row in csv.reader((tmp_path / "out" / "predictions.csv").open())])
    assert predicted[0] == predicted[1]


def test_the_first_day_has_nothing_to_learn_from(tmp_path):
    assert walked(written(tmp_path), tmp_path / "out", 1, 2)["days_without_history"] == 1


def test_the_better_of_two_engines_predicts_and_the_report_tells_both(tmp_path):
    path = written(tmp_path)
    found = {engine: walked(path, tmp_path / engine, engines=[engine]) for engine in ("lightgbm", "xgboost")}
    both = walked(path, tmp_path / "both", engines=["lightgbm", "xgboost"])
    assert both["engines"] == {engine: found[engine]["overall"] for engine in found}
    assert len({of["deviance"] for of in both["engines"].values()}) == 2
    better = min(both["engines"], key=lambda engine: both["engines"][engine]["deviance"])
    assert (both["engine"], both["overall"]) == (better, both["engines"][better])
    said = {name: (tmp_path / name / "predictions.csv").read_bytes() for name in (*found, "both")}
    assert said["both"] == said[better] and said["lightgbm"] != said["xgboost"]
    page = (tmp_path / "both" / "report.html").read_text()
    assert f"{better} trees (chosen)" in page and "past averages alone" in page


def test_an_engine_that_there_is_not_is_told(tmp_path, capsys):
    days = ["--from", "2020-04-05", "--to", "2020-04-06"]
    assert main(["--csv", str(written(tmp_path)), *days, "--out", str(tmp_path), "--engines", "lightgbm,catboost"]) == 2
    assert "no engine 'catboost'; there are lightgbm, xgboost" in capsys.readouterr().err


def test_the_report_says_what_histories_alone_achieve(tmp_path):
    found = walked(written(tmp_path), tmp_path / "out")
    assert found["histories_alone"]["rows"] == found["overall"]["rows"] == 24
    assert found["histories_alone"]["deviance"] != found["overall"]["deviance"]


def test_days_that_the_file_does_not_have_are_told_in_a_line(tmp_path, capsys):
    arguments = [
        "--csv",
        str(written(tmp_path)),
        "--from",
        "2021-01-01",
        "--to",
        "2021-01-02",
        "--out",
        str(tmp_path / "out"),
    ]
    assert main(arguments) == 1
    assert "covers 2020-04-01 to 2020-04-10" in capsys.readouterr().err


@pytest.mark.skipif(not ONLINE_ADS.is_file(), reason=f"real data is missing: {ONLINE_ADS}")
def test_real_data_is_predicted_better_than_by_plain_trees(tmp_path):
    found = run(
        ONLINE_ADS,
        dt.date(2020, 5, 25),
        dt.date(2020, 5, 31),
        tmp_path,
        ModelSettings(),
        lambda _line: None,
    )
    assert found["overall"]["r2"] > 0.9
    assert 0.9 < found["overall"]["calibration"] < 1.1
    with gzip.open(ONLINE_ADS, "rt") as file:
        wanted = sum(line[:10] >= "2020-05-25" for line in file if line[0] == "2")
    assert found["rows"] == 10_974
    assert sum(1 for _ in (tmp_path / "predictions.csv").open()) == wanted + 1
