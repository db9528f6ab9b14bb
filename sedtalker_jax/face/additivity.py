"""How far speech and expression are from a sum: what the best additive model of the true vertices leaves over.

For one head and one sentence, vertices X[t, k] of frame t under constant emotion k are fitted by S[t] + E[k], by least squares
(two-way means). The residual's energy is put in relation to the expression's, the energy of X[t, k] - mean over k of X[t].

    python -m sedtalker_jax.face.additivity [--heads 6] [--sentences 4]
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np

from sedtalker_jax.emotion.labels import CANONICAL
from sedtalker_jax.face.articulation import Phoneme, articulate
from sedtalker_jax.face.head import Head, make_head
from sedtalker_jax.face.regions import head_regions

CONSONANTS = ("p", "b", "m", "f", "v", "t", "d", "n", "s", "z", "S", "k", "g", "l", "r", "w", "j", "T", "D", "h", "tS")
VOWELS = ("i:", "I", "E", "a", "A:", "0", "O:", "U", "u:", "V", "@", "3:", "eI", "aI", "OI", "oU", "aU")


def babble(seed: int, syllables: int = 15, length_s: float = 0.08, start_s: float = 0.15) -> list[Phoneme]:
    """Random syllables as phonemes with times: every sound in every neighbourhood, for measurements and tests."""
    generator = np.random.default_rng([seed & 0xFFFFFFFF, 0xBAB])
    out, at = [], start_s
    for _ in range(syllables):
        stress = int(generator.integers(3))
        for table, scale in ((CONSONANTS, 0.9), (VOWELS, 1.2)):
            duration = length_s * scale * generator.uniform(0.6, 1.5)
            out.append(Phoneme(table[int(generator.integers(len(table)))], at, at + duration, stress))
            at += duration
    return out


def additive_residual(
    head: Head, phonemes: Sequence[Phoneme], intensity: float = 1.0, fps: float = 30.0, region: str = "mouth"
) -> float:
    """Energy left by the best additive model, as a fraction of the expression's energy, in a region of the face."""
    num_frames = int(np.ceil((phonemes[-1].end_s + 0.2) * fps))
    shapes = head.shapes[:, head_regions()[region]].reshape(len(head.shapes), -1)
    motion = []
    for k in range(len(CANONICAL)):
        activation = np.zeros((num_frames, len(CANONICAL) - 1))
        if k:
            activation[:, k - 1] = intensity
        motion.append(articulate(phonemes, num_frames, fps, activation, head.style) @ shapes)
    x = np.stack(motion, 1).astype(np.float64)  # [F, K, 3 * region]
    expression = x - x.mean(1, keepdims=True)
    residual = expression - expression.mean(0, keepdims=True)
    return float((residual**2).sum() / (expression**2).sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0], allow_abbrev=False)
    parser.add_argument("--heads", type=int, default=6, help="number of heads")
    parser.add_argument("--sentences", type=int, default=4, help="sentences of random syllables for each head")
    arguments = parser.parse_args()
    for region in ("lips", "mouth", "upper_face"):
        for intensity in (0.5, 1.0):
            values = [
                additive_residual(make_head(h), babble(100 * h + s), intensity, region=region)
                for h in range(arguments.heads)
                for s in range(arguments.sentences)
            ]
            print(f"{region:>10s}, intensity {intensity:.1f}: residual {np.mean(values):6.1%} of the expression's energy "
                  f"(from {min(values):.1%} to {max(values):.1%})")  # fmt: skip


if __name__ == "__main__":
    main()
