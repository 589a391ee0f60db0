"""Embeddings in a plane: by PCA, and by t-SNE if scikit-learn is installed."""

from __future__ import annotations

import numpy as np


def pca(embed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first two principal components [n 2] of embeddings [n e], and the shares of
    the variance that they have.
    """
    centred = embed.astype(np.float64) - embed.mean(axis=0, dtype=np.float64)
    left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    places = left[:, :2] * sizes[:2]
    if places.shape[1] < 2:  # of one dimension
        places = np.pad(places, [(0, 0), (0, 2 - places.shape[1])])
    # Signs are arbitrary; with these a page looks the same each time.
    most = np.abs(places).argmax(axis=0)
    signs = np.where(places[most, np.arange(2)] < 0, -1.0, 1.0)
    shares = np.square(sizes[:2]) / (np.square(sizes).sum() or 1.0)
    return places * signs, np.pad(shares, (0, 2 - len(shares)))


def tsne(embed: np.ndarray) -> np.ndarray | None:
    """Places [n 2] by t-SNE of cosines; None without scikit-learn, and for less than
    ten embeddings.
    """
    try:
        from sklearn.manifold import TSNE
    except ImportError:
        return None
    if len(embed) < 10:
        return None
    made = TSNE(
        metric="cosine",
        init="random",
        perplexity=min(30, (len(embed) - 1) / 3),
        random_state=0,
        n_jobs=1,
    )
    return made.fit_transform(embed.astype(np.float32))
