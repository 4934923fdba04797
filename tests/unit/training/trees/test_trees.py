"""The compiled trees say what the library says that grew them, or leave it to that."""

import datetime as dt
import json
import logging
import random
import re

import lightgbm as lgb
import numpy as np
import pytest
import xgboost as xgb
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.training.conftest import KEY, fitted, make_history
from training.model.model import Columns, Model, golden_agrees
from training.settings import ModelSettings
from training.trees import compiled
from training.trees.compiled import CompiledTrees, fastest
from training.trees.engines import LightGbmTrees, XgboostTrees, reference
from training.trees.tree_format import XGBOOST_BEGINS, NotCompilable, read_text

FLOAT32 = np.finfo(np.float32)
NEAR_ZERO = np.array([1e-35, FLOAT32.tiny, 1e-40, FLOAT32.smallest_subnormal, 0.0], np.float32)
ODD = np.concatenate(
    [
        NEAR_ZERO,
        -NEAR_ZERO,
        np.nextafter(NEAR_ZERO, np.float32(1)),
        np.array([np.nan, np.inf, -np.inf, FLOAT32.max, FLOAT32.min], np.float32),
    ]
)
GREEDY = {"min_data_in_leaf": 1, "min_sum_hessian_in_leaf": 0.0, "min_data_in_bin": 1, "learning_rate": 0.5}


def grown(rows, leaves=8, rounds=4, label=None, categorical="auto", **parameters):
    label = np.random.default_rng(1).gamma(1, 100, len(rows)) if label is None else label
    parameters = {"objective": "tweedie", "num_leaves": leaves, "verbose": -1, "num_threads": 1} | GREEDY | parameters
    return lgb.train(parameters, lgb.Dataset(rows, label, categorical_feature=categorical), num_boost_round=rounds)


def mixed_rows(seed, n=400, features=4, missing=0.2, zeros=0.2):
    """Of every size and sign, few or many distinct values to a feature."""
    dice = np.random.default_rng(seed)
    rows = dice.normal(size=(n, features)) * 10.0 ** dice.integers(-3, 6, features)
    rows[:, 0] = np.round(dice.normal(size=n), 1)
    rows[dice.random(rows.shape) < zeros] = 0.0
    rows[dice.random(rows.shape) < missing] = np.nan
    return rows.astype(np.float32)


def at_the_thresholds(booster, rows):
    """Rows that hold every threshold, the float32 before and the one after it, and the odd values."""
    thresholds = [float(word) for line in re.findall(r"^threshold=(.*)$", booster.model_to_string(), re.MULTILINE)
                  for word in line.split()]  # fmt: skip
    with np.errstate(over="ignore"):
        near = np.array(thresholds, np.float32)
        values = np.concatenate([near, np.nextafter(near, -FLOAT32.max), np.nextafter(near, FLOAT32.max), ODD])
    dice = np.random.default_rng(2)
    made = dice.choice(values, (max(4 * len(values), 200), rows.shape[1])).astype(np.float32)
    return np.concatenate([rows, made])


def assert_same(text, rows):
    expected = LightGbmTrees(lgb.Booster(model_str=text)).predict(rows)
    np.testing.assert_allclose(CompiledTrees(text).predict(rows), expected, rtol=1e-12)


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10**6),
    leaves=st.integers(2, 64),
    missing=st.sampled_from([0.0, 0.1, 0.6]),
    zeros=st.sampled_from([0.0, 0.3]),
    how=st.sampled_from([{}, {"zero_as_missing": True}, {"use_missing": False}, {"max_bin": 5}, {"max_depth": 3}]),
)
def test_every_small_model_predicts_like_lightgbm(seed, leaves, missing, zeros, how):
    rows = mixed_rows(seed, missing=missing, zeros=zeros)
    booster = grown(rows, leaves, **how)
    assert_same(booster.model_to_string(), at_the_thresholds(booster, rows))


@pytest.mark.parametrize(
    ("how", "missing_type", "default_sides"),
    [({"use_missing": False}, 0, {2}), ({"zero_as_missing": True}, 1, {0, 2}), ({}, 2, {0, 2})],
)
def test_the_models_above_have_every_way_of_missing_and_both_default_sides(how, missing_type, default_sides):
    text = "".join(grown(mixed_rows(seed), 32, **how).model_to_string() for seed in range(4))
    kinds = {int(kind) for line in re.findall(r"decision_type=(.*)", text) for kind in line.split()}
    assert {kind & 2 for kind in kinds if kind >> 2 == missing_type} == default_sides


def test_ways_of_missing_may_differ_from_split_to_split():
    rows = mixed_rows(3)
    booster = grown(rows, 32, zero_as_missing=True)
    dice = random.Random(4)
    text = resized(
        re.sub(
            r"^(decision_type=)(.*)$",
            lambda found: found[1] + " ".join(str(dice.choice([0, 2, 4, 6, 8, 10])) for _ in found[2].split()),
            booster.model_to_string(),
            flags=re.MULTILINE,
        )
    )
    assert_same(text, at_the_thresholds(booster, rows))


def test_more_thresholds_than_a_byte_can_tell_apart():
    rows = np.random.default_rng(5).normal(size=(4000, 2)).astype(np.float32)
    booster = grown(rows, 64, rounds=40, max_bin=2000)
    text = booster.model_to_string()
    assert len({word for line in re.findall(r"^threshold=(.*)$", text, re.MULTILINE) for word in line.split()}) > 600
    assert_same(text, at_the_thresholds(booster, rows))


def test_a_tree_may_be_a_single_leaf():
    rows = mixed_rows(6)
    booster = grown(rows, min_data_in_leaf=10_000)
    assert "num_leaves=1\n" in booster.model_to_string()
    assert_same(booster.model_to_string(), rows)


@pytest.mark.parametrize("n", [0, 1, 63, 64, 65, 129])
def test_a_rows_prediction_does_not_depend_on_its_batch(n):
    rows = mixed_rows(7)
    compiled = CompiledTrees(grown(rows, 64).model_to_string())
    found = compiled.predict(rows[:n])
    assert found.shape == (n,) and found.dtype == np.float64
    np.testing.assert_array_equal(found, compiled.predict(rows)[:n])


def test_rows_may_lie_in_memory_as_they_like():
    rows = mixed_rows(8)
    compiled = CompiledTrees(grown(rows, 16).model_to_string())
    expected = compiled.predict(rows)
    frozen = rows.copy()
    frozen.flags.writeable = False
    for laid in (np.asfortranarray(rows), frozen, np.repeat(rows, 2, axis=0)[::2]):
        np.testing.assert_array_equal(compiled.predict(laid), expected)


@pytest.mark.parametrize("shape", [(3, 3), (3, 5), (4,)])
def test_rows_of_another_shape_are_refused(shape):
    compiled = CompiledTrees(grown(mixed_rows(9)).model_to_string())
    with pytest.raises(ValueError, match="shape"):
        compiled.predict(np.zeros(shape, np.float32))


def too_many_leaves():
    return grown(mixed_rows(10), 65, rounds=1)


def categorical():
    rows = np.random.default_rng(11).integers(0, 6, (400, 2)).astype(np.float64)
    return grown(rows, label=np.where(rows[:, 0] % 2 == 1, 5.0, 1.0), categorical=[0, 1])


def linear():
    return grown(np.abs(mixed_rows(12, missing=0.0)), linear_tree=True)


def other_objective():
    return grown(mixed_rows(13), objective="regression")


def forest():
    return grown(mixed_rows(14), boosting="rf", bagging_freq=1, bagging_fraction=0.5)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (too_many_leaves, "65 leaves"),
        (categorical, "categorical"),
        (linear, "linear"),
        (other_objective, "objective"),
        (forest, "forest"),
    ],
)
def test_what_the_kernel_cannot_do_is_left_to_lightgbm_in_one_line(make, why, caplog):
    booster = make()
    reference = LightGbmTrees(booster)
    with caplog.at_level(logging.WARNING, "paceline.model"):
        assert fastest(reference, np.zeros((3, booster.num_feature()))) is reference
    assert [why in record.getMessage() for record in caplog.records] == [True]


def test_without_a_compiler_lightgbm_predicts(monkeypatch, caplog):
    def no_numba(*_given):
        raise ImportError("no module named numba")

    monkeypatch.setattr(compiled, "CompiledTrees", no_numba)
    booster = grown(mixed_rows(15))
    reference = LightGbmTrees(booster)
    assert fastest(reference, mixed_rows(15)) is reference
    assert "no module named numba" in caplog.text


def test_a_compiled_form_that_differs_is_not_used(caplog):
    rows = mixed_rows(16)
    booster, other = grown(rows), grown(rows, rounds=5)
    reference = LightGbmTrees(booster, other.model_to_string())
    assert fastest(reference, rows) is reference
    assert [record.levelname for record in caplog.records] == ["ERROR"]


def resized(text):
    """With the trees' sizes as they are after an edit."""
    head, _, rest = text.partition("\n\n")
    body = rest[: rest.index("end of trees")]
    sizes = " ".join(str(len(tree)) for tree in re.split(r"(?=^Tree=)", body, flags=re.MULTILINE)[1:])
    return re.sub(r"tree_sizes=.*", f"tree_sizes={sizes}", head) + "\n\n" + rest


@pytest.mark.parametrize(
    ("pattern", "replacement"),
    [
        (r"(?<=left_child=)\S+", "99999"),
        (r"(?<=left_child=)\S+", "-99999"),
        (r"(?<=left_child=)\S+", "0"),
        (r"(left_child=)(\S+) (\S+)", r"\1\3 \3"),
        (r"(?<=right_child=)\S+", "1.5"),
        (r"(?<=right_child=)\S+ ", ""),
        (r"(?<=split_feature=)\S+", "4"),
        (r"(?<=split_feature=)\S+", "-1"),
        (r"(?<=threshold=)\S+", "nan"),
        (r"(?<=threshold=)\S+", "half"),
        (r"(?<=decision_type=)\S+", "1"),
        (r"(?<=decision_type=)\S+", "14"),
        (r"(?<=decision_type=)\S+", "-2"),
        (r"(?<=leaf_value=)\S+", "inf"),
        (r"(?<=leaf_value=)\S+ ", ""),
        (r"(?<=num_leaves=)\d+", "0"),
        (r"(?<=num_leaves=)\d+", "9"),
        (r"num_leaves=.*\n", ""),
        (r"left_child=.*\n", ""),
        (r"is_linear=.*\n", ""),
        (r"threshold=.*\n", r"\g<0>\g<0>"),
        (r"Tree=1", "Tree=7"),
    ],
)
def test_a_damaged_tree_is_not_compiled(pattern, replacement):
    text = grown(mixed_rows(17)).model_to_string()
    head, gap, rest = text.partition("\n\n")
    damaged = re.sub(pattern, replacement, rest, count=1)
    assert damaged != rest
    with pytest.raises(NotCompilable):
        read_text(resized(head + gap + damaged) if "Tree=7" not in damaged else head + gap + damaged)


def test_splits_that_go_round_in_a_circle_are_not_compiled():
    text = grown(mixed_rows(17), leaves=4, rounds=1).model_to_string()
    text = re.sub(r"left_child=.*", "left_child=-1 2 1", text)
    text = re.sub(r"right_child=.*", "right_child=-2 -3 -4", text)
    with pytest.raises(NotCompilable, match="do not make a tree"):
        read_text(resized(text))


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[: len(text) // 3],
        lambda text: text.replace("tree_sizes=", "sizes="),
        lambda text: text.replace("tree_sizes=", "tree_sizes=-5 "),
        lambda text: text.replace("version=v4", "version=v9"),
        lambda text: text.replace("max_feature_idx=3", "max_feature_idx="),
        lambda text: text.replace("objective=tweedie", "objective=tweedie\nobjective=tweedie"),
        lambda text: text.replace("end of trees", "Tree=4\nnum_leaves=1\n\n\nend of trees"),
        lambda text: text.replace("num_class=1", "num_class=3"),
    ],
)
def test_a_damaged_text_is_not_compiled(damage):
    with pytest.raises(NotCompilable):
        read_text(damage(grown(mixed_rows(18)).model_to_string()))


def test_whatever_is_read_in_spite_of_damage_is_predicted_like_lightgbm():
    rows = mixed_rows(19, n=100)
    booster = grown(rows, 12)
    text, dice, read = booster.model_to_string(), random.Random(20), 0
    fields = "split_feature|threshold|decision_type|left_child|right_child|leaf_value"
    for _ in range(400):
        places = [found.span() for found in re.finditer(rf"(?<=\n)(?:{fields})=(.*)", text)]
        begin, end = dice.choice(places)
        at = dice.randrange(text.index("=", begin) + 1, end)
        damaged = text[:at] + dice.choice("0123456789- .e") + text[at + 1 :]
        try:
            read_text(damaged)
        except NotCompilable:
            continue
        read += 1
        assert_same(damaged, rows)
    assert read > 50


MADE_AT = dt.datetime(2020, 4, 13, 2, tzinfo=dt.UTC)


@pytest.fixture(scope="module")
def model():
    return fitted(make_history(), ModelSettings(trees=20, min_rows_in_leaf=5), MADE_AT)


def test_a_model_predicts_by_the_compiled_form_also_when_loaded(model, tmp_path):
    loaded = Model.load(model.save(tmp_path, KEY), KEY, verify=False)
    for one in (model, loaded, model.with_manifest(parent="x")):
        assert isinstance(one.trees, CompiledTrees)
    asked = Columns.of([["b1"], ["p1"], ["p1:s1"], ["mobile"], ["300x250"]], np.array([0.5]))
    np.testing.assert_allclose(
        model.predict(asked).revenue_micros, model.predict(asked, model.reference).revenue_micros, rtol=1e-12
    )


def test_a_model_too_large_for_the_kernel_predicts_all_the_same(tmp_path, caplog):
    large = fitted(make_history(), ModelSettings(trees=3, leaves=100, min_rows_in_leaf=1), MADE_AT)
    assert isinstance(large.trees, LightGbmTrees)
    assert "leaves" in caplog.text
    assert golden_agrees(Model.load(large.save(tmp_path, KEY), KEY))


@pytest.mark.parametrize("which", ["trees", "reference"])
def test_golden_rows_are_asked_of_both_forms(model, which):
    class Wrong(LightGbmTrees):
        def predict(self, rows):
            return super().predict(rows) * 1.01

    lying = model.with_manifest()
    assert golden_agrees(lying)
    setattr(lying, which, Wrong(model.reference.booster))
    assert not golden_agrees(lying)


def grown_by_xgboost(rows, leaves=8, rounds=4, **parameters):
    data = xgb.DMatrix(rows, np.random.default_rng(1).gamma(1, 1, len(rows)), feature_names=list("abcd"))
    parameters = {
        "objective": "reg:tweedie",
        "base_score": 1.0,
        "max_leaves": leaves,
        "max_depth": 0,
        "grow_policy": "lossguide",
        "min_child_weight": 0.0,
        "nthread": 1,
    } | parameters
    return XgboostTrees(xgb.train(parameters, data, num_boost_round=rounds))


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), leaves=st.integers(2, 64), missing=st.sampled_from([0.0, 0.1, 0.6]))
def test_every_small_model_of_xgboost_predicts_like_xgboost(seed, leaves, missing):
    rows = mixed_rows(seed, missing=missing)
    trees = grown_by_xgboost(rows, leaves)
    thresholds = [
        value for tree in json.loads(trees.text)["learner"]["gradient_booster"]["model"]["trees"]
        for value, left in zip(tree["split_conditions"], tree["left_children"], strict=True) if left != -1
    ]  # fmt: skip
    near = np.array(thresholds or [0.0], np.float32)
    values = np.concatenate([near, np.nextafter(near, -FLOAT32.max), np.nextafter(near, FLOAT32.max), ODD])
    values = values[~np.isinf(values)]  # XGBoost refuses them
    values = values[(np.abs(values) > 1e-35) | (values == 0) | np.isnan(values)]  # to the kernel, these are zeros
    asked = np.concatenate([rows, np.random.default_rng(2).choice(values, (300, 4)).astype(np.float32)])
    np.testing.assert_allclose(CompiledTrees(trees.text).predict(asked), trees.predict(asked), rtol=1e-5)


def test_what_was_kept_of_xgboosts_trees_predicts_the_same():
    rows = mixed_rows(21)
    trees = grown_by_xgboost(rows)
    again = reference("xgboost", trees.text)
    np.testing.assert_array_equal(again.predict(rows), trees.predict(rows))
    raw = again.contributions(rows)
    assert raw.shape == (len(rows), 5)
    np.testing.assert_allclose(np.exp(raw.sum(axis=1)), again.predict(rows), rtol=1e-4)
    assert again.importance().shape == (4,) and again.importance().sum() > 0


@pytest.mark.parametrize(
    "damage",
    [
        lambda tree: tree.update(left_children=[0] * len(tree["left_children"])),
        lambda tree: tree.update(left_children=[9999, *tree["left_children"][1:]]),
        lambda tree: tree.update(right_children=tree["left_children"]),
        lambda tree: tree.update(split_indices=[7] * len(tree["split_indices"])),
        lambda tree: tree.update(split_type=[1] * len(tree["split_type"])),
        lambda tree: tree.update(split_conditions=[float("nan")] * len(tree["split_conditions"])),
        lambda tree: tree.pop("default_left"),
    ],
    ids=["circle", "nowhere", "twice", "feature", "categorical", "nan", "missing"],
)
def test_damaged_trees_of_xgboost_are_not_compiled(damage):
    document = json.loads(grown_by_xgboost(mixed_rows(22)).text)
    damage(document["learner"]["gradient_booster"]["model"]["trees"][1])
    text = json.dumps(document, separators=(",", ":"))
    assert text.startswith(XGBOOST_BEGINS)
    with pytest.raises(NotCompilable):
        read_text(text)


@pytest.mark.parametrize("how", [{"base_score": 0.5}, {"objective": "reg:squarederror"}])
def test_other_models_of_xgboost_are_not_compiled(how):
    with pytest.raises(NotCompilable, match="Tweedie trees"):
        read_text(grown_by_xgboost(mixed_rows(23), **how).text)
