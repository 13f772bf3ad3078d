"""A small neural network in NumPy: 64 pixels, one hidden layer, 10 classes. Nothing here knows about queues."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

HIDDEN = 128
LEARNING_RATE = 0.05
MOMENTUM = 0.9


class Model:
    """Trained by stochastic gradient descent with momentum."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self._weights = [
            rng.normal(0, (2 / 64) ** 0.5, (64, HIDDEN)).astype(np.float32),
            np.zeros(HIDDEN, np.float32),
            rng.normal(0, (2 / HIDDEN) ** 0.5, (HIDDEN, 10)).astype(np.float32),
            np.zeros(10, np.float32),
        ]
        self._steps = [np.zeros_like(weight) for weight in self._weights]

    def train(self, images: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
        """Learn from one batch and return its mean loss, the cross entropy in nats, from before the step."""
        hidden, logits = self._forward(images)
        each = np.arange(len(labels))
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        error = odds / odds.sum(axis=1, keepdims=True)
        loss = -np.log(error[each, labels] + 1e-9).mean()
        error[each, labels] -= 1
        error /= len(labels)
        back = (error @ self._weights[2].T) * (hidden > 0)
        gradients = [images.T @ back, back.sum(axis=0), hidden.T @ error, error.sum(axis=0)]
        for weight, step, gradient in zip(self._weights, self._steps, gradients, strict=True):
            step[:] = MOMENTUM * step - LEARNING_RATE * gradient
            weight[:] += step
        return float(loss)

    def accuracy(self, images: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
        """Return the share, from 0 to 1, of the images whose most likely class is their label."""
        _, logits = self._forward(images)
        return float((logits.argmax(axis=1) == labels).mean())

    def _forward(self, images: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the activations of the hidden layer, [n, HIDDEN], and the logits, [n, 10]."""
        w1, b1, w2, b2 = self._weights
        hidden = np.maximum(images @ w1 + b1, 0)
        return hidden, hidden @ w2 + b2
