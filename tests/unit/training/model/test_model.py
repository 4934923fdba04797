import datetime as dt
import errno
import hashlib
import json
import math
import pickle
import random
import re
import shutil
import signal
import subprocess

import numpy as np
import pytest

from tests.unit.training.conftest import KEY, fitted, make_history
from training.model.bundle import ENCODER, FILES, MANIFEST, TREES, ModelRefused, ModelUnavailable, Parts
from training.model.model import Columns, Model
from training.model.sandbox import verify_in_child
from training.model.store import parts_of
from training.trees.engines import LightGbmTrees


def columns(*tuples, score=0.5):
    ids = [list(column) for column in zip(*tuples, strict=True)]
    return Columns.of(ids, np.full(len(tuples), score), np.full(len(tuples), 1_587_000_000))


SEEN = ("b1", "p1", "p1:s1", "mobile", "300x250")
UNSEEN = ("nobody", "nowhere", "never", "none", "nothing")


def test_a_saved_version_predicts_the_same(model, tmp_path):
    loaded = Model.load(model.save(tmp_path, KEY), KEY)
    asked = columns(SEEN, UNSEEN)
    for mine, theirs in zip(model.predict(asked), loaded.predict(asked), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert loaded.version == model.version
    assert loaded.trained_through == model.trained_through


def test_a_bundle_goes_round(model):
    bundle = model.to_bundle(KEY)
    loaded = Model.from_bundle(bundle, KEY, model.version, verify=False)
    assert loaded.to_bundle(KEY) == bundle


def test_nights_of_one_second_that_fit_the_same_trees_have_names_of_their_own(settings):
    second = dt.datetime(2020, 4, 13, 2, tzinfo=dt.UTC)
    history = make_history()
    first, again, later = (fitted(history, settings, second.replace(microsecond=part)).version for part in (1, 1, 2))
    assert first == again
    assert first != later
    assert first[:16] == later[:16] == "20200413T020000-"


def test_predictions_make_sense(model):
    prediction = model.predict(columns(SEEN, UNSEEN))
    assert (prediction.revenue_micros > 0).all()
    assert ((prediction.ctr > 0) & (prediction.ctr < 1)).all()
    assert (prediction.cvr < prediction.ctr).all()


def test_cost_is_the_past_cost_and_everybodys_where_a_brand_told_none(model):
    cost = model.cost_micros(columns(SEEN, ("b2", *SEEN[1:])))
    np.testing.assert_allclose(cost, [800.0, 800.0], rtol=1e-6)


def test_contributions_and_base_sum_to_the_prediction(model):
    asked = columns(SEEN, UNSEEN)
    names, contributions, base = model.explain(asked)
    assert contributions.shape == (2, len(names))
    np.testing.assert_allclose(np.exp(contributions.sum(axis=1) + base), model.predict(asked).revenue_micros, rtol=1e-9)


def _flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("file", [MANIFEST, *FILES])
@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.unlink(),
        _flip,
        lambda path: path.write_bytes(path.read_bytes()[:-40]),
        lambda path: path.write_bytes(b""),
    ],
    ids=["missing", "flipped", "truncated", "emptied"],
)
def test_a_directory_with_a_file_damaged_is_refused(model, tmp_path, file, damage):
    directory = model.save(tmp_path, KEY)
    damage(directory / file)
    with pytest.raises(ModelRefused):
        Model.load(directory, KEY, verify=False)


@pytest.mark.parametrize("file", [MANIFEST, *FILES])
def test_a_file_of_another_version_is_refused(model, other_model, tmp_path, file):
    directory, other = model.save(tmp_path, KEY), other_model.save(tmp_path, KEY)
    shutil.copyfile(other / file, directory / file)
    with pytest.raises(ModelRefused):
        Model.load(directory, KEY, verify=False)


def test_a_whole_version_under_another_name_is_refused(model, tmp_path):
    directory = model.save(tmp_path, KEY)
    directory.rename(tmp_path / "20300101T000000-abcdef")
    with pytest.raises(ModelRefused, match=model.version):
        Model.load(tmp_path / "20300101T000000-abcdef", KEY, verify=False)


def test_another_key_is_refused(model, tmp_path):
    with pytest.raises(ModelRefused, match="signature"):
        Model.load(model.save(tmp_path, KEY), b"x" * 32, verify=False)


def test_mutated_bundles_are_refused_with_a_reason(model):
    bundle, dice = model.to_bundle(KEY), random.Random(5)
    for _ in range(150):
        data = bytearray(bundle.encode())
        match dice.randrange(3):
            case 0:
                data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
            case 1:
                del data[dice.randrange(len(data)) :]
            case _:
                at = dice.randrange(len(data))
                data[at : at + dice.randrange(1, 50)] = b"9"
        try:
            changed = json.loads(bytes(data)) != json.loads(bundle)
        except ValueError:
            changed = True
        if changed:
            with pytest.raises(ModelRefused):
                Model.from_bundle(bytes(data), KEY, model.version, verify=False)


def test_golden_rows_are_checked_in_a_child(model, tmp_path):
    golden = model.manifest["golden"] | {"revenue_micros": [1.0] * len(model.manifest["golden"]["revenue_micros"])}
    lying = model.with_manifest(golden=golden)
    with pytest.raises(ModelRefused, match="golden"):
        Model.load(lying.save(tmp_path, KEY), KEY)


def test_trees_that_kill_their_process_kill_the_child_only(model, tmp_path):
    document = json.loads(parts_of(model.save(tmp_path, KEY)).bundle())
    text = document["files"][TREES]
    broken = re.sub(r"(left_child=)-?\d+", r"\g<1>99999999", text)
    assert broken != text
    killer = model.with_manifest()
    killer.reference = LightGbmTrees(model.reference.booster, broken)
    killer.manifest["files"] = model.manifest["files"] | {TREES: _sha256(broken)}
    with pytest.raises(ModelRefused):
        Model.from_bundle(killer.to_bundle(KEY), KEY)


@pytest.mark.parametrize(
    "outcome",
    [
        subprocess.TimeoutExpired("verify", 20),
        OSError(errno.ENOMEM, "no memory"),
        subprocess.CompletedProcess("verify", -signal.SIGKILL, b"", b""),
    ],
    ids=["slow", "no process", "killed"],
)
def test_a_check_that_could_not_be_made_is_no_refusal(monkeypatch, outcome):
    def run(*_args, **_kwargs):
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(ModelUnavailable, match="v1"):
        verify_in_child({"version": "v1"}, {})


def test_a_file_that_cannot_be_read_just_now_is_no_refusal(model, tmp_path, monkeypatch):
    directory = model.save(tmp_path, KEY)

    def read(_path):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("training.model.store._read", read)
    with pytest.raises(ModelUnavailable, match="Input/output error"):
        Model.load(directory, KEY, verify=False)


def test_both_refusals_survive_the_trip_between_processes():
    for error in (ModelRefused("v", "why"), ModelUnavailable("v", "why")):
        assert str(pickle.loads(pickle.dumps(error))) == str(error)


def _sha256(text):
    return hashlib.sha256(text.encode()).hexdigest()


def test_the_encoders_file_is_named_in_the_manifest(model):
    assert set(model.manifest["files"]) == {TREES, ENCODER}


@pytest.mark.parametrize("manifest", [[math.nan], {"version": "v-1", "metrics": math.inf}], ids=["list", "object"])
def test_a_manifest_that_no_json_can_say_is_refused(manifest):
    with pytest.raises(ModelRefused, match="is not JSON"):
        Parts(manifest, {}).files()
