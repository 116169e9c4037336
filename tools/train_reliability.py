"""Make ``diffim/models/reliability.onnx``: ``python -m tools.train_reliability`` (needs the extra ``train``; 15 minutes, two cores).

The recipe: scenes of `benchmarks.reliability_scenes` of every camera that is at hand, from fixed seeds; detections that carry no
flag that removes them. Each camera is judged by a model that never saw it; the model that is written has seen all of them. The
tables of ``docs/differencing.md`` are printed. Equal seeds, libraries and cameras give equal bytes, however many processes work.
"""

import argparse
import hashlib
import json
import os
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pandas as pd
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper
from sklearn.ensemble import HistGradientBoostingClassifier
from threadpoolctl import threadpool_limits

from benchmarks.reliability_scenes import CAMERAS, camera_scenes, is_at_hand
from benchmarks.reliability_truth import REAL, UNKNOWN
from diffim.measurement.reliability import FEATURES, VERSION_KEY, features
from diffim.options import BAD_SOURCE_FLAGS

OUT = Path(__file__).parent.parent / "diffim" / "models" / "reliability.onnx"
BLOCKS = {
    "fine": range(5),
    "ordinary": range(4),
    "coarse": range(4),
    "decam": range(1, 8),
    "hatp32": range(6),
}  # seeds, each of
SCENES = {"fine": 5, "ordinary": 5, "coarse": 5, "decam": 20, "hatp32": 5}
KEPT = 0.99  # of the real ones above BRIGHT sigma
BRIGHT = 8.0
F32, F64, Flags = NDArray[np.float32], NDArray[np.float64], NDArray[np.bool_]


def block(job: tuple[str, int], folder: Path | None) -> pd.DataFrame:
    """Return the examples of one block of scenes: features, camera, kind, significance. Read from the folder if they are there."""
    camera, seed = job
    stored = None if folder is None else folder / f"{camera}-{seed}.parquet"
    if stored is not None and stored.exists():
        return pd.read_parquet(stored)
    parts = []
    for number, s in enumerate(camera_scenes(camera, seed, SCENES[camera])):
        part = pd.DataFrame(features(s.difference, s.science, s.template, s.sources), columns=list(FEATURES))
        facts = {"camera": camera, "scene": f"{camera}-{seed}-{number}", "kind": s.kind, "snr": s.sources.significance}
        usable = ~s.sources[list(BAD_SOURCE_FLAGS)].any(axis=1).to_numpy() & (s.kind != UNKNOWN)
        parts.append(part.assign(**facts)[usable])
    table = pd.concat(parts, ignore_index=True)
    if stored is not None:
        stored.parent.mkdir(parents=True, exist_ok=True)
        table.to_parquet(stored)
    return table


def weights(t: pd.DataFrame) -> F64:
    """Return the weight of each example: no kind of a camera outweighs the others, and real counts three times what bogus does.

    Lost transients cost more than artefacts that pass.
    """
    size = t.groupby(["camera", "kind"]).kind.transform("size").to_numpy(np.float64)
    w = 1 / np.sqrt(size)
    real = t.kind.isin(REAL).to_numpy()
    for which, share in ((real, 3 / 4), (~real, 1 / 4)):
        w[which] *= share * len(t) / w[which].sum()
    return w


def fit(t: pd.DataFrame) -> HistGradientBoostingClassifier:
    """Return the trees that tell real from bogus."""
    model = HistGradientBoostingClassifier(
        max_iter=150, max_leaf_nodes=20, learning_rate=0.08, min_samples_leaf=40, l2_regularization=10.0,
        max_features=0.2, max_bins=64, early_stopping=False, random_state=1,
    )  # fmt: skip
    with threadpool_limits(1):  # sums in the same order on every machine
        model.fit(t[list(FEATURES)].to_numpy(np.float32), t.kind.isin(REAL).to_numpy(), sample_weight=weights(t))
    return model


def scores_of_unseen(t: pd.DataFrame) -> F64:
    """Return the probability of each example by a model that never saw its camera."""
    p = np.full(len(t), np.nan)
    for camera in t.camera.unique():
        here = (t.camera == camera).to_numpy()
        p[here] = fit(t[~here]).predict_proba(t.loc[here, list(FEATURES)].to_numpy(np.float32))[:, 1]
    return p


def per_camera(t: pd.DataFrame, p: F64) -> pd.DataFrame:
    """Return what is rejected of the artefacts where `KEPT` of the bright real ones are kept, and what a cut at 0.5 does."""
    real, rows = t.kind.isin(REAL).to_numpy(), []
    for camera in (*t.camera.unique(), "all"):
        here = np.ones(len(t), bool) if camera == "all" else (t.camera == camera).to_numpy()
        bright, bogus = p[here & real & (t.snr.to_numpy() >= BRIGHT)], p[here & ~real]
        loud = p[here & ~real & (t.snr.to_numpy() >= BRIGHT)]
        cut = float(np.quantile(bright, 1 - KEPT))
        rows.append(
            {
                "camera": camera,
                "real": len(bright),
                "artefacts": len(bogus),
                "kept at 0.5": (bright >= 0.5).mean(),
                "rejected at 0.5": (bogus < 0.5).mean(),
                f"cut that keeps {KEPT}": cut,
                "rejected there": (bogus < cut).mean(),
                f"rejected there above {BRIGHT:.0f} sigma": (loud < cut).mean(),
            }
        )
    return pd.DataFrame(rows)


def per_kind(t: pd.DataFrame, p: F64, cut: float = 0.5) -> pd.DataFrame:
    """Return the share of each kind that passes a cut, for each camera and for all."""
    passed = t.assign(passed=p >= cut)
    passed = passed[~passed.kind.isin(REAL) | (passed.snr >= BRIGHT)]
    out = passed.pivot_table(index="kind", columns="camera", values="passed", aggfunc="mean")
    out.insert(0, "all", passed.groupby("kind").passed.mean())
    out.insert(0, "number", passed.groupby("kind").size())
    order = [*REAL, *sorted(set(out.index) - set(REAL))]
    return out.loc[[k for k in order if k in out.index]]


def calibration(t: pd.DataFrame, p: F64) -> pd.DataFrame:
    """Return given and found probabilities by steps of 0.1, where there are three real ones for each bogus one."""
    w, real = weights(t), t.kind.isin(REAL).to_numpy()
    step = np.clip((p * 10).astype(int), 0, 9)
    rows = []
    for k in range(10):
        here = step == k
        if here.any():
            given, found = (np.average(v[here], weights=w[here]) for v in (p, real))
            rows.append({"from": k / 10, "given": given, "found": found, "number": int(here.sum())})
    return pd.DataFrame(rows)


def brier(t: pd.DataFrame, p: F64) -> float:
    """Return the mean square of given probability less truth, where there are three real ones for each bogus one."""
    return float(np.average((p - t.kind.isin(REAL).to_numpy()) ** 2, weights=weights(t)))


def markdown(t: pd.DataFrame) -> str:
    """Return a table as markdown, numbers with three decimals."""
    flat = t.reset_index() if t.index.name else t
    text = [[v if isinstance(v, str) else str(v) if isinstance(v, int | np.integer) else "" if np.isnan(v) else f"{v:.3f}"
             for v in row] for row in flat.itertuples(index=False)]  # fmt: skip
    lines: Iterable[list[str]] = [list(map(str, flat.columns)), ["---"] * flat.shape[1], *text]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    """Render, train, print the figures, write the model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--examples", type=Path, help="folder: blocks are read where they are there, and written where not"
    )
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=OUT)
    a = parser.parse_args()
    jobs = [(c, k) for c in CAMERAS if is_at_hand(c) for k in BLOCKS[c]]
    os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
    with ProcessPoolExecutor(a.workers, mp_context=get_context("spawn")) as pool:
        t = pd.concat(list(pool.map(partial(block, folder=a.examples), jobs)), ignore_index=True)
    p = scores_of_unseen(t)
    report: dict[str, Any] = {
        "examples": len(t),
        "real": int(t.kind.isin(REAL).sum()),
        "cameras": list(t.camera.unique()),
    }
    for table in (per_camera(t, p), per_kind(t, p), calibration(t, p)):
        print("\n" + markdown(table), flush=True)
    print(
        f"\nBrier score {brier(t, p):.4f}, that of the share of real ones for all {brier(t, np.full(len(t), 0.75)):.4f}"
    )
    write(fit(t), t, report, a.out)


def write(model: HistGradientBoostingClassifier, t: pd.DataFrame, report: dict[str, Any], path: Path) -> None:
    """Write the model and say how far ONNX's sums are off."""
    made = as_onnx(model)
    version = "s3" + hashlib.sha256(made.SerializeToString()).hexdigest()[:5]
    helper.set_model_props(made, {VERSION_KEY: version, "features": json.dumps(FEATURES), "report": json.dumps(report)})
    path.write_bytes(made.SerializeToString(deterministic=True))
    x = t[list(FEATURES)].to_numpy(np.float32)
    check = onnxruntime.InferenceSession(str(path)).run(None, {"features": x})[0][:, 0]
    worst = np.abs(check - model.predict_proba(x)[:, 1]).max()
    print(f"\n{path.name}: {path.stat().st_size / 1e6:.2f} MB, version {version}, off by {worst:.1e} at most")
    print(json.dumps(report))


def as_onnx(model: HistGradientBoostingClassifier) -> ModelProto:
    """Write the trees as an ONNX TreeEnsembleRegressor and a sigmoid: features (N, F) -> probability (N, 1)."""
    nodes: dict[str, list[int | float | str]] = {
        k: [] for k in ("treeids", "nodeids", "featureids", "values", "modes", "truenodeids", "falsenodeids")
    }
    leaves: dict[str, list[int | float]] = {k: [] for k in ("treeids", "nodeids", "ids", "weights")}
    for tree, predictors in enumerate(model._predictors):
        for k, node in enumerate(predictors[0].nodes):
            leaf = bool(node["is_leaf"])
            row = (
                tree,
                k,
                0 if leaf else int(node["feature_idx"]),
                0.0 if leaf else float(node["num_threshold"]),
                "LEAF" if leaf else "BRANCH_LEQ",
                0 if leaf else int(node["left"]),
                0 if leaf else int(node["right"]),
            )
            for column, value in zip(nodes.values(), row, strict=True):
                column.append(value)
            if leaf:
                for column, value in zip(leaves.values(), (tree, k, 0, float(node["value"])), strict=True):
                    column.append(value)
    trees = helper.make_node(
        "TreeEnsembleRegressor",
        ["features"],
        ["score"],
        domain="ai.onnx.ml",
        n_targets=1,
        base_values=[float(model._baseline_prediction.ravel()[0])],
        post_transform="NONE",
        **{f"nodes_{k}": v for k, v in nodes.items()},
        **{f"target_{k}": v for k, v in leaves.items()},
    )
    graph = helper.make_graph(
        [trees, helper.make_node("Sigmoid", ["score"], ["probability"])], "reliability",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["N", len(FEATURES)])],
        [helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["N", 1])],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8, producer_name="alertprod")


if __name__ == "__main__":
    main()
