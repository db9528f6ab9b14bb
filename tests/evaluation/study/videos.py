"""Small videos for studies."""

from pathlib import Path

import av
import numpy as np


def write_tiny_video(path: Path, *, seconds: float = 2.0, codec: str = "libx264", seed: int = 0) -> None:
    """A picture of noise that stands still, at 10 fps."""
    picture = np.random.default_rng(seed).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.width = stream.height = 16
        stream.pix_fmt = "yuv420p"
        for _ in range(round(10 * seconds)):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
