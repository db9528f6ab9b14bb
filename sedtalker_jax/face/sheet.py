"""Contact sheet of the built-in heads: heads x emotions x intensities, to look at.

python -m sedtalker_jax.face.sheet --out runs/sheet.png [--heads 8 | --seeds 3 10] [--intensities 0.5 1.0] [--size 200]
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sedtalker_jax.emotion.formats import replace_when_complete
from sedtalker_jax.emotion.labels import ACTIVE
from sedtalker_jax.errors import UserError, exit_code
from sedtalker_jax.face.articulation import expression_weights
from sedtalker_jax.face.colours import head_colours
from sedtalker_jax.face.head import HeadSpec, make_head
from sedtalker_jax.face.render import render_sheet


def contact_sheet(
    seeds: Sequence[int],
    intensities: Sequence[float] = (1.0,),
    size: int | tuple[int, int] = 200,
    rules: Mapping[str, Any] | None = None,
    spec: HeadSpec | None = None,
) -> np.ndarray:
    """One row for each head and intensity, one column for each emotion, neutral first; uint8 [height, width, 3].

    Raises:
      UserError: when rendering is not possible here.
    """
    rows, colours, labels = [], [], []
    for seed in seeds:
        head = make_head(seed, spec)
        for intensity in intensities:
            activation = np.concatenate([np.zeros((1, len(ACTIVE))), intensity * np.eye(len(ACTIVE))])
            rows.append(list(head.vertices(expression_weights(activation, head.style, rules))))
            colours.append(head_colours(seed))
            labels.append(f"{seed}" + (f"  x {intensity:g}" if len(intensities) > 1 else ""))
    faces = head.template.faces
    return render_sheet(rows, faces, size, colours=colours, row_labels=labels, column_labels=("neutral", *ACTIVE))


def save_picture(path: str | os.PathLike, picture: np.ndarray, colours: int | None = None) -> None:
    """Writes uint8 [H, W, 3] as .png (or what the suffix says), whole or not at all; `colours` reduces the palette.

    Raises:
      UserError: when the place cannot be written or the suffix is unknown.
    """
    from PIL import Image

    path = Path(path)
    image = Image.fromarray(picture)
    if colours:
        image = image.quantize(colours, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.FLOYDSTEINBERG)
    with replace_when_complete(path) as temporary:
        try:
            image.save(temporary, optimize=True)  # PNG and JPEG heed it, others ignore it
        except ValueError as error:
            raise UserError(f"cannot write the picture {path}: {error}") from None


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0], allow_abbrev=False)
    parser.add_argument("--out", required=True, help="picture to write (.png)")
    parser.add_argument("--heads", type=int, default=6, help="number of heads, with consecutive seeds from 10")
    parser.add_argument("--seeds", type=int, nargs="+", help="heads by seed, instead of --heads")
    parser.add_argument("--intensities", type=float, nargs="+", default=[0.5, 1.0], help="activations of each emotion")
    parser.add_argument("--size", type=int, default=200, help="pixels of one face")
    parser.add_argument("--palette", type=int, default=0, help="reduce to this many colours, for a smaller file")
    options = parser.parse_args(arguments)
    seeds = options.seeds or range(10, 10 + options.heads)

    def run():
        picture = contact_sheet(seeds, options.intensities, options.size)
        save_picture(options.out, picture, options.palette or None)
        print(f"{options.out}: {len(seeds)} heads x {len(ACTIVE) + 1} emotions x {len(options.intensities)} intensities")

    return exit_code(run)


if __name__ == "__main__":
    sys.exit(main())
