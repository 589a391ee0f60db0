"""Logits to probabilities."""

from __future__ import annotations

import numpy as np


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-logits)), without overflow, in the dtype of the floats given."""
    small = np.exp(-np.abs(logits))
    return np.where(logits < 0, small, small.dtype.type(1)) / (1 + small)


def softmax(logits: np.ndarray) -> np.ndarray:
    """exp(logits), divided by its sum over the last axis, without overflow."""
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)
