"""What the loaders and the trainer share: the queue, the sentences, and the numbers that both must agree on.

The text is Python's own reference manual, as `help("if")` shows it; it comes with Python, and so do its sentences.
"""

from __future__ import annotations

import os
import re
from pydoc_data.topics import topics
from typing import TYPE_CHECKING, Literal

import numpy as np

import aioflow as flow

if TYPE_CHECKING:
    from numpy.typing import NDArray

LOADERS = int(os.environ.get("SENTENCES_LOADERS", "1"))
EPOCHS = int(os.environ.get("SENTENCES_EPOCHS", "5"))
BATCH = 16
SEED = 0

HELD_OUT = 200  # sentences that no loader sends

# An element is one sentence: its bytes, the epoch, and its number, by which the trainer counts what arrives. Sentences
# are of any length: a batch is as wide as its longest one, and zeros, which are no text, fill the others up. All epochs
# go through one queue, so a batch may hold the end of one epoch and the start of the next.
train = flow.PaddingFIFOQueue(
    capacity=128,
    dtypes=["int32", "int64", "int64"],
    shapes=[[None], [], []],
    shared_name="sentences",
    producers=LOADERS,
)


def sentences(part: Literal["train", "held-out"]) -> list[NDArray[np.int32]]:
    """Return the bytes of each sentence, int32 [length]; the same split and order in every process."""
    paragraphs = re.split(r"\n\s*\n", "\n\n".join(topics[name] for name in sorted(topics)))
    pieces = [piece for text in paragraphs for piece in re.split(r"(?<=[.!?]) (?=[A-Z])", " ".join(text.split()))]
    # What reads like a sentence, once: the manual also has grammar, tables and programs, and repeats itself.
    found = list(dict.fromkeys(piece for piece in pieces if re.fullmatch(r"[A-Z][ -~]{10,250}[.!?]", piece)))
    order = np.random.default_rng(SEED).permutation(len(found))
    rows = order[:HELD_OUT] if part == "held-out" else order[HELD_OUT:]
    return [np.frombuffer(found[row].encode(), np.uint8).astype(np.int32) for row in rows]
