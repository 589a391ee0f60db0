"""Writes goldens/probe.json by scikit-learn; not a part of the tests.

    python tests/evals/make_probe_goldens.py FLOWERS

needs numpy, pillow and scikit-learn (made by 1.9.1). FLOWERS: the real images of five
flowers, as `train/CLASS/*.jpg` and `test/CLASS/*.jpg`.

"made": features of four overlapping classes; the mean cross entropy, the penalised sum
and probabilities of LogisticRegression at several l2 = 1 / C, and, by l2 of the search,
what a fit to four of five images scores on the fifth. "flowers": the share of test
images that a fit to thumbnails of the training images gets right, by the place of l2.
"""

import json
import pathlib
import sys

import numpy as np
from PIL import Image

PLACE = pathlib.Path(__file__).parent / "goldens" / "probe.json"
L2 = [10 ** (-6 + i / 8) for i in range(97)]
FLOWERS = range(51, 54)  # of these, near the one that the probe chooses


def fit(features, labels, l2):
    from sklearn.linear_model import LogisticRegression  # no dependency of the tests

    few = features.shape[1] < 20  # for Newton's steps
    solver = "newton-cholesky" if few else "lbfgs"
    model = LogisticRegression(C=1 / l2, solver=solver, tol=1e-6, max_iter=3000)
    return model.fit(features, labels)


def loss(model, features, labels):
    probability = model.predict_log_proba(features)
    return -probability[np.arange(len(labels)), labels].mean()


def made():
    rng = np.random.default_rng(0)
    labels = np.arange(100) % 4
    centres = rng.standard_normal((4, 6)) * 2
    scales = np.array([1, 1, 2, 0.5, 2, 1])
    features = centres[labels] + rng.standard_normal((100, 6)) * 2
    features = ((features + [0, 5, 0, 0, 0, 0]) * scales).round(3)
    fits = []
    for l2 in (1e-3, 0.1, 3.0, 1e3):
        model = fit(features, labels, l2)
        mean = loss(model, features, labels)
        fits.append(
            {
                "l2": l2,
                "loss": mean,
                "total": mean * 100 + l2 / 2 * (model.coef_**2).sum(),
                "probabilities": model.predict_proba(features[:10]).tolist(),
            }
        )
    out = np.arange(100) // 4 % 5 == 0
    scores = []
    for l2 in L2:
        model = fit(features[~out], labels[~out], l2)
        share = model.score(features[out], labels[out])
        scores.append([share, -loss(model, features[out], labels[out])])
    return {
        "features": features.tolist(),
        "labels": labels.tolist(),
        "fits": fits,
        "held_out_scores": scores,
    }


def thumbnails(folder, split):
    """float64 [n 192] and labels, in the order of the folders and names."""
    rows, labels = [], []
    for number, place in enumerate(sorted((folder / split).iterdir())):
        for path in sorted(place.iterdir()):
            image = Image.open(path).convert("RGB").resize((8, 8), Image.Resampling.BOX)
            rows.append(np.asarray(image, np.float64).ravel() / 255)
            labels.append(number)
    return np.array(rows), np.array(labels)


def flowers(folder):
    features, labels = thumbnails(folder, "train")
    others, answers = thumbnails(folder, "test")
    return {
        place: fit(features, labels, L2[place]).score(others, answers)
        for place in FLOWERS
    }


if __name__ == "__main__":
    found = {"made": made(), "flowers": flowers(pathlib.Path(sys.argv[1]))}
    PLACE.write_text(json.dumps(found) + "\n")
