"""scikit-learn with skl2onnx and ONNX Runtime: what is exported answers as the estimator does."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import onnx
import pytest
from cli import crosscast
from safetensors.numpy import load_file
from sklearn import set_config
from sklearn.calibration import CalibratedClassifierCV
from sklearn.cluster import KMeans
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_diabetes, load_iris
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.ensemble import (
    AdaBoostClassifier,
    BaggingClassifier,
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    IsolationForest,
    RandomForestClassifier,
    RandomForestRegressor,
    StackingClassifier,
    VotingClassifier,
)
from sklearn.feature_extraction.text import CountVectorizer, HashingVectorizer, TfidfVectorizer
from sklearn.gaussian_process import GaussianProcessClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge, SGDClassifier
from sklearn.multioutput import MultiOutputClassifier
from sklearn.naive_bayes import GaussianNB, MultinomialNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    KBinsDiscretizer,
    MinMaxScaler,
    OneHotEncoder,
    OrdinalEncoder,
    PolynomialFeatures,
    QuantileTransformer,
    StandardScaler,
)
from sklearn.svm import SVC, SVR, LinearSVC, OneClassSVM
from sklearn.tree import DecisionTreeClassifier

from crosscast.pipeline.errors import StageError
from crosscast.pipeline.parity.metrics import Extent, compare
from crosscast.pipeline.parity.tolerance import excess, tolerance
from crosscast.pipeline.signature import Arrays, Signature, Tensor
from crosscast.pipeline.sources import sklearn as source_module
from crosscast.pipeline.sources.sklearn_model import Reference
from crosscast.targets.families import onnx as trees
from crosscast.targets.families import onnx_runtime

pytestmark = [
    pytest.mark.e2e,
    # of the frameworks among themselves, and of fits that are cut short
    pytest.mark.filterwarnings("ignore"),
]

ROOT = Path(__file__).parents[2]
NOTHING = Signature(inputs=())
LIMITS = tolerance("fp32", {})

FLOWERS, SPECIES = load_iris(return_X_y=True)
PATIENTS, PROGRESS = load_diabetes(return_X_y=True, scaled=False)
TWO = (SPECIES == 2).astype(int)
NAMES = np.array(["setosa", "versicolor", "été"])[SPECIES]
BOTH = np.stack([SPECIES, TWO], axis=1)


def rows(values: np.ndarray) -> np.ndarray:
    """The rows, which lie on thresholds' grids, and as many between them, as float32."""
    drawn = np.random.default_rng(0).uniform(values.min(0), values.max(0), values.shape)
    return np.concatenate([values, drawn]).astype(np.float32)


def exported(
    model: Any, out: Path, *, declared: Signature = NOTHING, opset: int | None = None
) -> tuple[Reference, Path]:
    """The reference and the tree that an estimator is exported to, by way of a file."""
    out.mkdir(exist_ok=True)
    file = out / "model.joblib"
    joblib.dump(model, file)
    source = {"kind": "sklearn", "model": str(file), "trusted": True}
    signature = source_module.signature(source=source, declared=declared)
    source_module.export(
        to="onnx",
        source=source,
        signature=signature,
        outputs=None,
        opset=opset,
        layout=None,
        program=None,
        out=out,
    )
    return source_module.load(source=source, signature=signature, outputs=None), out


def differences(reference: Reference, tree: Path, arrays: Arrays) -> list[str]:
    """What is out of the limits of fp32; empty where the artifact agrees."""
    wanted, got = reference.run(arrays), onnx_runtime.open(artifact=tree).run(arrays)
    assert list(got) == list(wanted)
    return [
        f"{name}: {said}"
        for name, array in wanted.items()
        if (said := excess(compare(array, got[name], typical=Extent.of(array)), LIMITS))
    ]


CLASSIFIERS: dict[str, tuple[Any, Any]] = {
    "logistic": (LogisticRegression(max_iter=500), SPECIES),
    "logistic of two": (LogisticRegression(), TWO),
    "labels that are strings": (LogisticRegression(max_iter=500), NAMES),
    "labels that are floats": (RandomForestClassifier(5, random_state=0), TWO.astype(float)),
    "labels that are bool": (
        GradientBoostingClassifier(n_estimators=5, random_state=0),
        TWO.astype(bool),
    ),
    "linear svc": (make_pipeline(MinMaxScaler(), LinearSVC(random_state=0)), TWO),
    "svc rbf": (SVC(), SPECIES),
    "svc rbf of two": (SVC(), TWO),
    "svc with probabilities": (SVC(probability=True, random_state=0), SPECIES),
    "sgd whose probabilities saturate": (SGDClassifier(loss="log_loss", random_state=0), SPECIES),
    "forest": (RandomForestClassifier(10, random_state=0), NAMES),
    "forest after scaling": (
        make_pipeline(StandardScaler(), RandomForestClassifier(10, random_state=0)),
        SPECIES,
    ),
    "boosting after pca": (
        make_pipeline(
            StandardScaler(),
            PCA(2, random_state=0),
            GradientBoostingClassifier(n_estimators=5, random_state=0),
        ),
        SPECIES,
    ),
    "histogram boosting": (HistGradientBoostingClassifier(max_iter=10, random_state=0), SPECIES),
    "ada boost": (AdaBoostClassifier(n_estimators=5, random_state=0), SPECIES),
    "bagging": (BaggingClassifier(n_estimators=3, random_state=0), SPECIES),
    "hard votes": (
        VotingClassifier([("a", GaussianNB()), ("b", DecisionTreeClassifier(random_state=0))]),
        SPECIES,
    ),
    "soft votes": (
        VotingClassifier(
            [("a", GaussianNB()), ("b", DecisionTreeClassifier(random_state=0))], voting="soft"
        ),
        SPECIES,
    ),
    "stacking": (
        StackingClassifier(
            [("a", GaussianNB()), ("b", DecisionTreeClassifier(random_state=0))], cv=2
        ),
        SPECIES,
    ),
    "neighbours": (make_pipeline(StandardScaler(), KNeighborsClassifier()), SPECIES),
    "gaussian bayes": (GaussianNB(), SPECIES),
    "perceptron": (
        make_pipeline(StandardScaler(), MLPClassifier((8,), max_iter=50, random_state=0)),
        SPECIES,
    ),
    "calibrated": (CalibratedClassifierCV(LinearSVC(random_state=0), cv=2), SPECIES),
    "calibrated by steps": (
        CalibratedClassifierCV(LinearSVC(random_state=0), cv=2, method="isotonic"),
        SPECIES,
    ),
    "bins": (
        make_pipeline(
            KBinsDiscretizer(4, random_state=0, quantile_method="averaged_inverted_cdf"),
            LogisticRegression(),
        ),
        SPECIES,
    ),
    "quantiles": (
        make_pipeline(QuantileTransformer(n_quantiles=20, random_state=0), LogisticRegression()),
        SPECIES,
    ),
    "polynomials": (
        make_pipeline(PolynomialFeatures(2), MinMaxScaler(), LogisticRegression()),
        TWO,
    ),
    "several targets of a forest": (RandomForestClassifier(5, random_state=0), BOTH),
    "several targets of a tree": (DecisionTreeClassifier(max_depth=3, random_state=0), BOTH),
    "strings of several targets": (
        RandomForestClassifier(5, max_depth=3, random_state=0),
        np.stack([NAMES, NAMES[::-1]], axis=1),
    ),
    "several targets": (MultiOutputClassifier(LogisticRegression(max_iter=500)), BOTH),
}
REGRESSORS: dict[str, tuple[Any, Any]] = {
    "ridge": (Ridge(), PROGRESS),
    "two targets": (Ridge(), np.stack([PROGRESS, -PROGRESS], axis=1)),
    "svr": (make_pipeline(StandardScaler(), SVR()), PROGRESS),
    "forest after scaling": (
        make_pipeline(StandardScaler(), RandomForestRegressor(10, random_state=0)),
        PROGRESS,
    ),
    "extra trees": (ExtraTreesRegressor(10, random_state=0), PROGRESS),
    "histogram boosting": (HistGradientBoostingRegressor(max_iter=20, random_state=0), PROGRESS),
    "perceptron": (
        make_pipeline(
            StandardScaler(), MLPRegressor(hidden_layer_sizes=(8,), max_iter=50, random_state=0)
        ),
        PROGRESS,
    ),
}
OTHERS: dict[str, tuple[Any, list[str]]] = {
    "clusters": (KMeans(3, random_state=0), ["label", "scores"]),
    "outliers": (IsolationForest(n_estimators=10, random_state=0), ["label", "scores"]),
    "one class": (OneClassSVM(nu=0.2), ["label", "scores"]),
    "features": (make_pipeline(StandardScaler(), PCA(2, random_state=0)), ["transformed"]),
    "dense features": (TruncatedSVD(2, random_state=0), ["transformed"]),
}


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classifiers_agree(name: str, tmp_path: Path) -> None:
    model, labels = CLASSIFIERS[name]
    reference, tree = exported(model.fit(FLOWERS, labels), tmp_path)
    assert reference.outputs[0].name == "label"
    assert reference.outputs[0].dtype == ("string" if labels.dtype.kind == "U" else "int64")
    assert differences(reference, tree, {"features": rows(FLOWERS)}) == []


@pytest.mark.parametrize("targets", [1, 2])
@pytest.mark.parametrize(
    "model",
    [
        DecisionTreeClassifier(max_depth=4, random_state=0),
        RandomForestClassifier(6, random_state=0),
        RandomForestClassifier(20, max_depth=3, random_state=0),
        ExtraTreesClassifier(50, random_state=0),
    ],
    ids=["tree", "pure leaves", "mixed leaves", "extra trees"],
)
def test_ties_are_decided_as_scikit_learn_does(model: Any, targets: int, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    grid = random.integers(0, 4, (600, 4)).astype(np.float32)
    labels = random.integers(0, 3, (600, targets))
    reference, tree = exported(model.fit(grid, labels if targets > 1 else labels[:, 0]), tmp_path)
    arrays = {"features": grid}
    got = onnx_runtime.open(artifact=tree).run(arrays)
    assert np.array_equal(got["label"], reference.run(arrays)["label"])


@pytest.mark.parametrize("name", REGRESSORS)
def test_regressors_agree(name: str, tmp_path: Path) -> None:
    model, target = REGRESSORS[name]
    reference, tree = exported(model.fit(PATIENTS, target), tmp_path)
    expected = "prediction" if target.ndim == 1 else "predictions"
    assert [tensor.name for tensor in reference.outputs] == [expected]
    assert differences(reference, tree, {"features": rows(PATIENTS)}) == []


@pytest.mark.parametrize("name", OTHERS)
def test_other_estimators_agree(name: str, tmp_path: Path) -> None:
    model, outputs = OTHERS[name]
    reference, tree = exported(model.fit(FLOWERS), tmp_path)
    assert [tensor.name for tensor in reference.outputs] == outputs
    drawn = rows(FLOWERS)[len(FLOWERS) :]  # the others are support vectors, on the very edge
    assert differences(reference, tree, {"features": drawn}) == []


@pytest.mark.parametrize("opset", [13, 15, 17, 22])
def test_the_opset_asked_for_is_delivered(opset: int, tmp_path: Path) -> None:
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(FLOWERS, SPECIES)
    reference, tree = exported(model, tmp_path, opset=opset)
    assert trees.opset(trees.load(tree)) == opset
    assert differences(reference, tree, {"features": rows(FLOWERS)}) == []


def test_other_opsets_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"opset 7: .* to opset 13 to"):
        exported(LogisticRegression().fit(FLOWERS, TWO), tmp_path, opset=7)


def test_linear_models_have_standard_operators_only(tmp_path: Path) -> None:
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(FLOWERS, SPECIES)
    _, tree = exported(model, tmp_path)
    assert {node.domain for node in trees.load(tree).graph.node} == {""}


def test_declared_inputs_name_and_type_them(tmp_path: Path) -> None:
    double = Tensor(name="x", shape=("n", 4), dtype="float64", range=(0, 8))
    declared = Signature(inputs=(double,), dims={"n": (1, 3)})
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(FLOWERS, SPECIES)
    reference, tree = exported(model, tmp_path, declared=declared)
    assert [(t.name, t.dtype, t.shape) for t in reference.outputs][1] == (
        "probabilities", "float64", ("n", 3),
    )  # fmt: skip
    assert differences(reference, tree, {"x": FLOWERS}) == []


def test_a_shifted_threshold_and_swapped_labels_are_seen(tmp_path: Path) -> None:
    model = RandomForestClassifier(5, random_state=0).fit(FLOWERS, NAMES)
    reference, tree = exported(model, tmp_path)
    arrays = {"features": rows(FLOWERS)}

    def broken(change: Callable[[dict[str, Any]], None]) -> list[str]:
        graph = trees.load(tree)
        node = next(n for n in graph.graph.node if n.op_type.startswith("Tree"))
        strings = next(t for t in graph.graph.initializer if t.string_data)
        change({entry.name: entry for entry in node.attribute} | {"labels": strings})
        other = tmp_path / "broken"
        other.mkdir(exist_ok=True)
        trees.save(graph, other)
        return differences(reference, other, arrays)

    def shift(attributes: dict[str, Any]) -> None:
        attributes["nodes_values"].floats[0] += 1

    def swap(attributes: dict[str, Any]) -> None:
        attributes["labels"].string_data[:2] = [b"versicolor", b"setosa"]

    assert differences(reference, tree, arrays) == []
    assert broken(shift)
    assert any(line.startswith("label: mismatch") for line in broken(swap))


DOCUMENTS = (
    "The quick brown fox jumps over the lazy dog",
    "Hello, world! It's a naïve CAFÉ test",
    "numbers 123 and x1_y2",
    "not good at all, the film was not good",
    "Great film; I loved the film",
    "éclair Élan ÉTÉ été",
    "the",
    "",
    "!!!",
    "日本語 テスト the fox",
)
OTHER_TEXTS = (*DOCUMENTS, "Unknown words only", "FOX the Fox", "tab\tnew\nline  the  fox", "x́y ½")
VECTORIZERS: dict[str, Any] = {
    "counts": CountVectorizer(),
    "present or not": CountVectorizer(binary=True),
    "case": TfidfVectorizer(lowercase=False),
    "logarithms": TfidfVectorizer(sublinear_tf=True),
    "pairs": TfidfVectorizer(ngram_range=(1, 2), norm="l1"),
    "pairs over stop words": TfidfVectorizer(ngram_range=(1, 2), stop_words="english"),
    "pairs and triples": CountVectorizer(ngram_range=(2, 3)),
    "words of one letter": TfidfVectorizer(token_pattern=r"(?u)\b\w+\b"),
    "letters": CountVectorizer(token_pattern=r"[a-zA-Z]+"),
}


@pytest.mark.parametrize("name", VECTORIZERS)
def test_text_is_split_as_scikit_learn_does(name: str, tmp_path: Path) -> None:
    reference, tree = exported(VECTORIZERS[name].fit(DOCUMENTS), tmp_path)
    assert [(t.name, t.dtype, t.shape) for t in reference.inputs] == [
        ("text", "string", ("batch",))
    ]
    assert differences(reference, tree, {"text": np.array(OTHER_TEXTS, dtype=object)}) == []


def test_text_in_and_labels_out(tmp_path: Path) -> None:
    model = make_pipeline(CountVectorizer(), MultinomialNB())
    labels = ["gut", "schlecht"] * 5
    column = Tensor(name="review", shape=("batch", 1), dtype="string")
    declared = Signature(inputs=(column,), dims={"batch": (1, 4)})
    reference, tree = exported(model.fit(DOCUMENTS, labels), tmp_path, declared=declared)
    texts = np.array(OTHER_TEXTS, dtype=object)[:, None]
    assert differences(reference, tree, {"review": texts}) == []


def frame() -> tuple[Any, np.ndarray]:
    import pandas

    random = np.random.default_rng(1)
    table = pandas.DataFrame(
        {
            "age": random.integers(18, 80, 100).astype(float),
            "sex": random.choice(["male", "female"], 100),
            "port of call": random.choice(["S", "C", "Québec"], 100),
            "class": random.integers(1, 4, 100),
            "note": random.choice(["good day", "bad day sir", "so so"], 100),
            "unused": 1.0,
        }
    )
    return table, ((table.age > 40) ^ (table.sex == "male")).to_numpy().astype(int)


@pytest.mark.parametrize("last", [LogisticRegression(), RandomForestClassifier(5, random_state=0)])
def test_typed_columns_are_inputs_of_their_own(last: Any, tmp_path: Path) -> None:
    table, labels = frame()
    columns = ColumnTransformer(
        [
            ("number", make_pipeline(SimpleImputer(), StandardScaler()), ["age"]),
            (
                "string",
                make_pipeline(
                    SimpleImputer(strategy="most_frequent"), OneHotEncoder(handle_unknown="ignore")
                ),
                ["sex", "port of call"],
            ),
            ("integer", OneHotEncoder(), ["class"]),
            ("text", TfidfVectorizer(), "note"),
        ]
    )
    model = make_pipeline(columns, last).fit(table, labels)
    reference, tree = exported(model, tmp_path)
    told = {tensor.name: tensor.dtype for tensor in reference.inputs}
    assert told == {
        "age": "float32", "sex": "string", "port of call": "string", "class": "int64",
        "note": "string",
    }  # fmt: skip
    arrays = {
        name: table[name].to_numpy().astype(object if dtype == "string" else dtype)[:, None]
        for name, dtype in told.items()
    }
    arrays["sex"][:10] = ""  # missing, for the imputer
    arrays["port of call"][5:15] = "elsewhere"
    assert differences(reference, tree, arrays) == []


def test_a_matrix_of_strings(tmp_path: Path) -> None:
    table, labels = frame()
    strings = table[["sex", "port of call"]].to_numpy().astype(object)
    encoder = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
    model = make_pipeline(encoder, DecisionTreeClassifier(max_depth=3, random_state=0)).fit(
        strings, labels
    )
    reference, tree = exported(model, tmp_path)
    assert differences(reference, tree, {"features": strings}) == []


REFUSED: dict[str, tuple[Any, str]] = {
    "hashing": (HashingVectorizer(n_features=8), "ONNX has no hashing"),
    "accents": (TfidfVectorizer(strip_accents="unicode"), "strip_accents='unicode'"),
    "letters in words": (TfidfVectorizer(analyzer="char_wb"), "analyzer='char_wb'"),
    "own tokens": (CountVectorizer(tokenizer=str.split, token_pattern=None), "tokenizer=..."),
    "own pattern": (CountVectorizer(token_pattern=r"\S+"), "token_pattern="),
}


@pytest.mark.parametrize("name", REFUSED)
def test_text_that_would_be_split_otherwise_is_refused(name: str, tmp_path: Path) -> None:
    model, expected = REFUSED[name]
    with pytest.raises(StageError) as raised:
        exported(model.fit(DOCUMENTS), tmp_path)
    assert expected in raised.value.message
    assert raised.value.fix


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (GaussianProcessClassifier(), r"GaussianProcessClassifier: .* \(Solve\)"),
        (KNeighborsClassifier(weights="distance"), r"KNeighborsClassifier\(weights='distance'\)"),
        (SimpleImputer(add_indicator=True), r"SimpleImputer\(add_indicator=True\)"),
    ],
)
def test_estimators_that_cannot_are_refused_by_name(
    model: Any, expected: str, tmp_path: Path
) -> None:
    with pytest.raises(StageError, match=expected):
        exported(model.fit(FLOWERS[::5], TWO[::5]), tmp_path)


def source(model: Path | str, *, trusted: bool = False) -> dict[str, Any]:
    return {"kind": "sklearn", "model": str(model), "trusted": trusted}


def test_a_pickle_is_read_only_where_it_is_trusted(tmp_path: Path) -> None:
    file = tmp_path / "model.pkl"
    file.write_bytes(pickle.dumps(LogisticRegression().fit(FLOWERS, TWO)))
    with pytest.raises(StageError, match=r"is a pickle.*any code") as raised:
        source_module.signature(source=source(file), declared=NOTHING)
    assert "trusted: true" in raised.value.fix
    assert "skops.io.dump" in raised.value.fix
    found = source_module.signature(source=source(file, trusted=True), declared=NOTHING)
    assert found.inputs[0].shape == ("batch", 4)


def test_skops_is_read_and_its_strange_types_are_listed(tmp_path: Path) -> None:
    import skops.io

    plain, strange = tmp_path / "plain.skops", tmp_path / "strange.skops"
    skops.io.dump(LogisticRegression().fit(FLOWERS, TWO), plain)
    model = make_pipeline(CountVectorizer(tokenizer=Path), LogisticRegression())
    skops.io.dump(model, strange)
    assert source_module.signature(source=source(plain), declared=NOTHING).inputs
    with pytest.raises(StageError, match=r"beyond those that skops trusts: .*Path") as raised:
        source_module.signature(source=source(strange), declared=NOTHING)
    assert "trusted: true" in raised.value.fix


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (LogisticRegression(), "LogisticRegression that is not fitted"),
        ({"model": 1}, "no scikit-learn estimator"),
        (LogisticRegression, "the class LogisticRegression"),
    ],
)
def test_what_is_no_fitted_estimator_is_refused(
    value: object, expected: str, tmp_path: Path
) -> None:
    joblib.dump(value, tmp_path / "m.joblib")
    with pytest.raises(StageError, match=expected):
        source_module.signature(
            source=source(tmp_path / "m.joblib", trusted=True), declared=NOTHING
        )


def test_broken_files_are_refused(tmp_path: Path) -> None:
    for name in ("m.joblib", "m.skops"):
        (tmp_path / name).write_bytes(b"\x80\x04\x95 no more")
        with pytest.raises(StageError, match=name):
            source_module.signature(source=source(tmp_path / name, trusted=True), declared=NOTHING)


def test_another_version_of_scikit_learn_is_noted(tmp_path: Path) -> None:
    file = tmp_path / "old.pkl"
    file.write_bytes(
        pickle.dumps(LogisticRegression().fit(FLOWERS, TWO)).replace(
            __import__("sklearn").__version__.encode(), b"0.9.9"
        )
    )
    signature = source_module.signature(source=source(file, trusted=True), declared=NOTHING)
    notes = source_module.export(
        to="onnx", source=source(file, trusted=True), signature=signature, outputs=None, opset=None,
        layout=None, program=None, out=tmp_path,
    )  # fmt: skip
    assert "0.9.9" in notes["versions"][0]
    assert notes["classes"] == [0, 1]


def test_wrong_declared_inputs_are_named(tmp_path: Path) -> None:
    model = LogisticRegression().fit(FLOWERS, TWO)
    wide = Signature(
        inputs=(Tensor(name="x", shape=("n", 5), dtype="float32"),), dims={"n": (1, 2)}
    )
    with pytest.raises(StageError, match=r"'x' is declared as float32 \[n, 5\]") as raised:
        exported(model, tmp_path, declared=wide)
    assert "features float32 [batch, 4]" in raised.value.fix


def test_no_setting_of_the_user_changes_the_answers(tmp_path: Path) -> None:
    set_config(transform_output="pandas")
    try:
        model = make_pipeline(StandardScaler(), PCA(2, random_state=0)).fit(FLOWERS)
        reference, tree = exported(model, tmp_path)
        assert differences(reference, tree, {"features": rows(FLOWERS)}) == []
    finally:
        set_config(transform_output="default")


@pytest.mark.parametrize(
    ("config", "inputs", "outputs"),
    [
        (
            "configs/profanity.yaml",
            {"text": "string"},
            {"label": "int64", "probabilities": "float32"},
        ),
        (
            "configs/iris-forest.yaml",
            {"features": "float32"},
            {"species": "string", "probabilities": "float32"},
        ),
    ],
)
def test_the_examples_pass(
    config: str, inputs: dict[str, str], outputs: dict[str, str], cache: Path, tmp_path: Path
) -> None:
    done = crosscast("build", ROOT / config, "--out", tmp_path, cache=cache)
    assert done.returncode == 0, done.stdout + done.stderr
    artifact = next(tmp_path.glob("*/*/onnx"))
    manifest = json.loads((artifact / "manifest.json").read_text())
    assert manifest["verdict"]["status"] == "passed"
    assert {t["name"]: t["dtype"] for t in manifest["inputs"]} == inputs
    assert {t["name"]: t["dtype"] for t in manifest["outputs"]} == outputs
    assert len(manifest["export"]["classes"]) in (2, 3)
    stored = load_file(artifact / "vectors.safetensors")
    assert all(name in str(stored.keys()) for name in inputs)
    assert onnx.load(artifact / "model.onnx").graph.node
    # what USAGE.md says in Python runs as it stands
    usage = (artifact / "USAGE.md").read_text()
    code = usage.partition("```python\n")[2].partition("```")[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(artifact)
        exec(code, {})
