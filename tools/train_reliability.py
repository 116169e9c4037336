"""Make ``diffim/models/reliability.onnx``: ``python -m tools.train_reliability [--pairs 160]`` (needs the extra ``train``).

The recipe: simulated pairs (`benchmarks.pairs`) of both cases, seeing and depth as there, three quarters of them damaged in
ways that happen: registration off by up to 0.3 px, cosmic rays, saturation or bad columns that nobody masked, a kernel
of order 0. Detections at 4 sigma; real is what lies within 2 px of an injected transient of S/N > 4, bogus what
is further than 8 px from any. Seeds are fixed; every fifth pair is held out for the figures that are printed.
"""

import argparse
import hashlib
import json
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper
from scipy.spatial import cKDTree
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import brier_score_loss, roc_auc_score

from benchmarks.pairs import make_pair
from diffim import ImageDifferenceTask
from diffim.measurement.reliability import FEATURES, VERSION_KEY, features
from exposure import load_instrument
from exposure.mask import plane_bits
from service.pairs.prepare import kernel_candidates, subtract_sky
from tasks import make_task

OUT = Path(__file__).parent.parent / "diffim" / "models" / "reliability.onnx"
SIZE = 1024


def examples(seed: int) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.float64]]:
    """Return features, labels and significances of the detections on one pair."""
    rng = np.random.default_rng([seed, 77])
    damage = rng.choice(["none", "registration", "defects", "kernel"])
    jitter = rng.uniform(0.05, 0.3) if damage == "registration" else 0.03
    pair = make_pair("AB"[seed % 2], SIZE, 10_000 + seed, stars=int(rng.choice([3000, 10_000, 40_000])), jitter=jitter)
    science, template, rules = pair.science, pair.template, load_instrument("generic")
    if damage == "defects":
        hidden = plane_bits(rng.choice(["CR", "SAT", "BAD"], 2))
        science.mask &= np.int32(~hidden)
        template.mask &= np.int32(~hidden)
    subtract_sky(science, rules)
    subtract_sky(template, rules)
    stars = kernel_candidates(science, rules)
    options = {
        "detectionThreshold": 4.0,
        "doReliability": False,
        "doFindCosmicRays": damage != "defects",
        "badSourceFlags": [],
        "doResidualModel": bool(rng.random() < 0.5),
        "doUseRegister": damage != "registration",
        "spatialKernelOrder": 0 if damage == "kernel" else 3,
    }
    result = make_task(ImageDifferenceTask, options).run(science, stars, template)
    table = result.diaSources
    numbers = features(result.subtractedExposure, result.warpedExposure, table)
    t = pair.truth
    distance, _ = cKDTree(t[["x", "y"]]).query(table[["x", "y"]])
    real = (distance < 2) & (table.peakSign.to_numpy() > 0)
    labelled = real | (distance > 8)
    return numbers[labelled], real[labelled], table.significance.to_numpy()[labelled]


def main() -> None:
    """Train, print figures of the held-out pairs, write the model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=160)
    parser.add_argument("--examples", type=Path, help="npz file: read if it is there, written if not")
    a = parser.parse_args()
    if a.examples is not None and a.examples.exists():
        stored = np.load(a.examples)
        numbers, real, snr, seeds = (stored[k] for k in ("numbers", "real", "snr", "seeds"))
    else:
        parts = []
        for seed in range(a.pairs):
            parts.append(examples(seed))
            if seed % 10 == 9:
                print(f"{seed + 1} of {a.pairs} pairs", flush=True)
        numbers, real, snr = (np.concatenate([p[k] for p in parts]) for k in range(3))
        seeds = np.concatenate([np.full(len(p[1]), k) for k, p in enumerate(parts)])
        if a.examples is not None:
            np.savez_compressed(a.examples, numbers=numbers, real=real, snr=snr, seeds=seeds)
    held = seeds % 5 == 4
    model = HistGradientBoostingClassifier(
        max_iter=200, max_leaf_nodes=15, learning_rate=0.06, min_samples_leaf=40, l2_regularization=1.0, random_state=1
    )
    model.fit(numbers[~held], real[~held])
    p = model.predict_proba(numbers[held])[:, 1]
    truth = real[held]
    cut = np.quantile(p[truth & (snr[held] > 5)], 0.02)
    kept = float((p[~truth & (snr[held] > 5)] >= cut).mean())
    edges = np.linspace(0, 1, 6)
    which = np.clip(np.digitize(p, edges) - 1, 0, 4)
    report = {
        "examples": len(real),
        "real": int(real.sum()),
        "auc": round(float(roc_auc_score(truth, p)), 4),
        "auc_above_5_sigma": round(float(roc_auc_score(truth[snr[held] > 5], p[snr[held] > 5])), 4),
        "bogus_kept_at_98_percent_completeness": round(kept, 4),
        "threshold_there": round(float(cut), 3),
        "brier": round(float(brier_score_loss(truth, p)), 4),
        "calibration": [
            [round(float(p[which == k].mean()), 3), round(float(truth[which == k].mean()), 3), int((which == k).sum())]
            for k in range(5)
            if (which == k).any()
        ],
    }
    print(json.dumps(report))
    network = as_onnx(model)
    version = "s1" + hashlib.sha256(network.SerializeToString()).hexdigest()[:5]
    helper.set_model_props(
        network, {VERSION_KEY: version, "features": json.dumps(FEATURES), "report": json.dumps(report)}
    )
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_bytes(network.SerializeToString())
    check = onnxruntime.InferenceSession(str(OUT)).run(None, {"features": numbers[held]})[0][:, 0]
    print(
        f"{OUT.name}: {OUT.stat().st_size / 1e6:.2f} MB, version {version}, off by {np.abs(check - p).max():.1e} at most"
    )


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
