"""A small language model in NumPy: guesses the next byte from the ones before. Nothing here knows about queues."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

BYTES = 256
CONTEXT = 8  # bytes that a guess is made from
EMBEDDING = 16
HIDDEN = 128
LEARNING_RATE = 0.005

Tokens: TypeAlias = NDArray[np.int32]
Floats: TypeAlias = NDArray[np.float32]


class Model:
    """Embeds the last CONTEXT bytes, has one hidden layer, and is trained by Adam."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        size = CONTEXT * EMBEDDING
        self._weights: list[Floats] = [
            rng.normal(0, 0.3, (BYTES, EMBEDDING)).astype(np.float32),
            rng.normal(0, size**-0.5, (size, HIDDEN)).astype(np.float32),
            np.zeros(HIDDEN, np.float32),
            np.zeros((HIDDEN, BYTES), np.float32),  # so that every byte is equally likely at first
            np.zeros(BYTES, np.float32),
        ]
        self._means = [np.zeros_like(weight) for weight in self._weights]
        self._squares = [np.zeros_like(weight) for weight in self._weights]
        self._steps = 0

    def train(self, tokens: Tokens) -> None:
        """Learn from one batch, [n, length], padded with zeros."""
        contexts, targets = examples(tokens)
        inputs, hidden, error = self._forward(contexts)
        error[np.arange(len(targets)), targets] -= 1
        error /= len(targets)
        back = (error @ self._weights[3].T) * (1 - hidden**2)
        embedding = np.zeros_like(self._weights[0])
        np.add.at(embedding, contexts.ravel(), (back @ self._weights[1].T).reshape(-1, EMBEDDING))
        self._step([embedding, inputs.T @ back, back.sum(axis=0), hidden.T @ error, error.sum(axis=0)])

    def loss(self, tokens: Tokens) -> float:
        """Return the loss of a padded batch in nats per byte: log(256) = 5.5 for who knows nothing."""
        contexts, targets = examples(tokens)
        _, _, probabilities = self._forward(contexts)
        return float(-np.log(probabilities[np.arange(len(targets)), targets]).mean())

    def _forward(self, contexts: Tokens) -> tuple[Floats, Floats, Floats]:
        """Return the embedded contexts, the activations of the hidden layer, and the probability of each byte."""
        embedding, w1, b1, w2, b2 = self._weights
        inputs = embedding[contexts].reshape(len(contexts), -1)
        hidden = np.tanh(inputs @ w1 + b1)
        logits = hidden @ w2 + b2
        probabilities = np.exp(logits - logits.max(axis=1, keepdims=True))
        return inputs, hidden, probabilities / probabilities.sum(axis=1, keepdims=True)

    def _step(self, gradients: list[Floats]) -> None:
        """Adam, with its usual constants."""
        self._steps += 1
        rate = LEARNING_RATE * (1 - 0.999**self._steps) ** 0.5 / (1 - 0.9**self._steps)
        for weight, mean, square, gradient in zip(self._weights, self._means, self._squares, gradients, strict=True):
            mean[:] = 0.9 * mean + 0.1 * gradient
            square[:] = 0.999 * square + 0.001 * gradient**2
            weight[:] -= rate * mean / (np.sqrt(square) + 1e-8)


def examples(tokens: Tokens) -> tuple[Tokens, Tokens]:
    """Return what a padded batch teaches: for each byte of each sentence its context, [m, CONTEXT], and itself, [m].

    Before a sentence's first byte the context is zeros. The padding behind its last byte is masked out: it is no text.
    """
    padded = np.pad(tokens, ((0, 0), (CONTEXT, 0)))
    contexts = np.lib.stride_tricks.sliding_window_view(padded[:, :-1], CONTEXT, axis=1)
    is_text = tokens != 0
    return contexts[is_text], tokens[is_text]
