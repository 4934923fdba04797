"""What a file may hold, and what becomes of the rest."""

import gzip
import math

import pandas as pd
import pytest

from training.etl.cli import main
from training.etl.csv_reader import Unreadable, read_file, summed
from training.etl.importer import default_source
from training.etl.row_parser import CANONICAL

HEADER = ",".join(CANONICAL)
GOOD = "2020-04-01T00:00:00Z,b1,p1,p1:s1,mobile,300x250,0.5,100,3,1,0.25,0.5"


def quiet(_line):
    pass


def written(tmp_path, *lines, name="perf.csv", header=HEADER):
    path = tmp_path / name
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


def row(**changes):
    fields = dict(zip(CANONICAL, GOOD.split(","), strict=True)) | {name: str(value) for name, value in changes.items()}
    return ",".join(fields.values())


def test_a_good_row_is_read_to_the_micro(tmp_path):
    read = read_file(written(tmp_path, row(cost="28.9717", revenue="-0.000001")), quiet)
    first = read.frame.iloc[0]
    assert (first["cost_micros"], first["revenue_micros"], first["impressions"]) == (28_971_700, -1, 100)
    assert read.daily
    assert not read.rejects


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"ts": "2020-04-01"}, "ts"),
        ({"ts": "2020-04-01T00:00:00"}, "ts"),
        ({"ts": "2020-13-01T00:00:00Z"}, "ts"),
        ({"ts": "0001-01-01T00:00:00+10:00"}, "ts"),
        ({"brand_id": ""}, "brand_id"),
        ({"brand_id": "a b"}, "brand_id"),
        ({"brand_id": "."}, "brand_id"),
        ({"partner_id": ".."}, "partner_id"),
        ({"partner_id": "x" * 65}, "partner_id"),
        ({"slot_id": "é"}, "slot_id"),
        ({"device_type": "mobile\x00"}, "device_type"),
        ({"placement_score": "inf"}, "placement_score"),
        ({"placement_score": "high"}, "placement_score"),
        ({"impressions": "-1"}, "impressions"),
        ({"impressions": "1.5"}, "impressions"),
        ({"clicks": "1_000"}, "clicks"),
        ({"conversions": "1e17"}, "conversions"),
        ({"cost": "-0.1"}, "cost"),
        ({"cost": "nan"}, "cost"),
        ({"cost": "9007199255"}, "cost"),
        ({"revenue": ""}, "revenue"),
        ({"revenue": "-inf"}, "revenue"),
        ({"revenue": "1e300"}, "revenue"),
    ],
)
def test_a_bad_row_is_refused_with_its_line_and_its_reason(tmp_path, changes, reason):
    read = read_file(written(tmp_path, GOOD, row(**changes), GOOD), quiet)
    assert read.rows == 2
    assert [reject.line for reject in read.rejects] == [3]
    assert read.rejects[0].reason.startswith(reason)


@pytest.mark.parametrize(
    ("changes", "column", "value"),
    [
        ({"device_type": ""}, "device_type", "unknown"),
        ({"creative_type": ""}, "creative_type", "unknown"),
        ({"impressions": "100.0"}, "impressions", 100),
        ({"clicks": ""}, "clicks", 0),
        ({"ts": "2020-04-01T02:30:00.1234567+02:00"}, "hour", 1_585_701_000),
        ({"placement_score": "0.3333"}, "placement_score", 0.3333),
    ],
)
def test_what_is_left_out_or_written_otherwise_is_understood(tmp_path, changes, column, value):
    assert read_file(written(tmp_path, row(**changes)), quiet).frame.iloc[0][column] == value


def test_an_unknown_cost_stays_unknown(tmp_path):
    read = read_file(written(tmp_path, row(cost="")), quiet)
    assert math.isnan(summed(read.frame, read.daily).iloc[0]["cost_micros"])


def test_repeated_keys_are_summed_and_a_known_cost_is_kept(tmp_path):
    read = read_file(written(tmp_path, GOOD, row(cost=""), row(placement_score="")), quiet)
    sums = summed(read.frame, read.daily).sort_values("impressions", ascending=False)
    assert sums["impressions"].tolist() == [200, 100]
    assert sums["cost_micros"].tolist() == [250_000, 250_000]


def test_rows_with_hours_are_hourly_and_sum_within_the_hour(tmp_path):
    lines = [row(ts=f"2020-04-01T05:{minute}:00Z") for minute in (10, 50)]
    read = read_file(written(tmp_path, *lines, GOOD), quiet)
    assert not read.daily
    assert sorted(summed(read.frame, read.daily)["hour"]) == [1_585_699_200, 1_585_717_200]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("1,2,3", "3 fields"),
        (GOOD + ",extra", "13 fields"),
        (GOOD.replace("b1", '"b1'), "quote"),
        (GOOD.replace("b1", "b\r1"), "new-line character"),
        (GOOD.replace("b1", "b" * 200_000), "field larger"),
    ],
)
def test_a_broken_line_costs_only_itself(tmp_path, line, reason):
    read = read_file(written(tmp_path, GOOD, line, GOOD, GOOD), quiet)
    assert read.rows == 3
    assert reason in read.rejects[0].reason


def test_lines_keep_their_numbers_whatever_is_between_them(tmp_path):
    path = tmp_path / "perf.csv"
    bad = row(cost="-1")
    for text, number in (
        (f"{HEADER}\n\n{bad}\n{GOOD}\n", 3),
        (f"{HEADER}\n{GOOD}\n\n\n{bad}", 5),
        (f"{HEADER}\r\n{GOOD}\r\n{bad}\r\n", 3),
        (f'{HEADER}\n"{GOOD.replace(",", chr(34) + "," + chr(34))}"\n{bad}\n', 3),
        ("\n".join([HEADER, *[GOOD] * 60_000, bad, ""]), 60_002),
    ):
        path.write_bytes(text.encode())
        read = read_file(path, quiet)
        assert [reject.line for reject in read.rejects] == [number]
        assert (read.rejects[0].content, read.frame["impressions"].unique().tolist()) == (bad, [100])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"a;b;c\n1;2;3\n", "no header"),
        (GOOD.encode(), "no header; its first line must be ts,brand_id"),
        (HEADER.replace(",", ";").encode(), "semicolons between its fields: save it with commas"),
        (HEADER.replace(",", "\t").encode(), "tabs between its fields"),
        (f"{HEADER}\r{GOOD}\r".encode(), "CR alone"),
        (b"PK\x03\x04" + bytes(100), "ZIP archive or an Excel file: unpack it"),
        (HEADER.replace(",cost", "").encode(), "cost missing"),
        (f"{HEADER},cost\n".encode(), "twice"),
        (f"{HEADER}\n".encode(), "no rows"),
        (bytes(range(256)) * 50, "not a CSV"),
        (b"\x1f\x8b" + b"rubbish" * 10, "cannot be unpacked"),
        (b"PAR1" + b"rubbish" * 10, "Parquet"),
        (HEADER.encode("utf-16"), "UTF-8"),
    ],
)
def test_a_file_of_another_kind_is_told_in_a_line(tmp_path, content, reason):
    path = tmp_path / "perf.csv"
    path.write_bytes(content)
    with pytest.raises(Unreadable, match=reason) as told:
        read_file(path, quiet)
    assert "\n" not in str(told.value)


def test_a_file_that_is_not_there_is_told_in_a_line(tmp_path):
    for path in (tmp_path / "missing.csv", tmp_path):
        with pytest.raises(Unreadable, match="cannot read"):
            read_file(path, quiet)


@pytest.mark.parametrize("lose", [1, 9, 400])
def test_an_archive_that_is_cut_off_keeps_its_whole_lines(tmp_path, lose):
    lines = [row(slot_id=f"s{number}", revenue=number + 0.25) for number in range(3000)]
    packed = gzip.compress("\n".join([HEADER, *lines, ""]).encode())
    path = tmp_path / "perf.csv.gz"
    path.write_bytes(packed[:-lose])
    read = read_file(path, quiet)
    assert read.cut_off
    assert read.rows > 2000
    assert "ends early" in read.rejects[-1].reason
    assert read.frame["revenue_micros"].tolist() == [number * 1e6 + 250_000 for number in range(read.rows)]


def test_several_archives_in_one_file_are_one_file(tmp_path):
    path = tmp_path / "perf.csv.gz"
    path.write_bytes(gzip.compress(f"{HEADER}\n{GOOD}\n".encode()) + gzip.compress(f"{GOOD}\n".encode()))
    assert read_file(path, quiet).rows == 2


def test_byte_order_mark_windows_line_ends_and_no_last_line_end(tmp_path):
    path = tmp_path / "perf.csv"
    path.write_bytes(b"\xef\xbb\xbf" + f"{HEADER}\r\n{GOOD}\r\n{GOOD}".encode())
    read = read_file(path, quiet)
    assert (read.rows, read.rejects) == (2, [])


def test_columns_may_stand_in_any_order_and_beside_others(tmp_path):
    names = ["note", *reversed(CANONICAL)]
    fields = ["x", *reversed(GOOD.split(","))]
    assert read_file(written(tmp_path, ",".join(fields), header=",".join(names)), quiet).rows == 1


def test_parquet_says_the_same_as_csv(tmp_path):
    path = written(tmp_path, GOOD, row(cost="", placement_score=""))
    frame = pd.read_csv(path).assign(ts=lambda read: pd.to_datetime(read["ts"]))
    frame.to_parquet(tmp_path / "perf.parquet")
    pd.testing.assert_frame_equal(read_file(tmp_path / "perf.parquet", quiet).frame, read_file(path, quiet).frame)


def test_the_name_of_a_file_is_its_source(tmp_path):
    assert default_source(tmp_path / "März 2020.csv.gz") == "M_rz_2020.csv.gz"


def test_the_command_imports_twice_and_says_what_it_could_not(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PACELINE_STATE", str(tmp_path / "state"))
    monkeypatch.delenv("PACELINE_DATABASE_URL", raising=False)
    path = written(tmp_path, GOOD, row(cost="-1"))
    rejects = tmp_path / "perf.csv.rejects.csv"
    for _ in range(2):
        assert main(["import", str(path)]) == 0
        assert "imported 1 rows" in capsys.readouterr().out
        assert "cost '-1' is below zero" in rejects.read_text()
    written(tmp_path, GOOD)
    assert main(["import", str(path)]) == 0
    assert not rejects.exists()
    assert main(["import", str(written(tmp_path, row(cost="-1")))]) == 1
    assert main(["import", str(tmp_path / "missing.csv")]) == 1
    assert "cannot read" in capsys.readouterr().err
