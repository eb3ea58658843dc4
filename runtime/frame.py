"""One frame of a camera: what passes from the sources through the engine to the sinks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Frame:
    """One frame. image: uint8 [H, W, 3] BGR, not written to by anybody. index: from 0, with gaps where frames were dropped.

    timestamp_s: seconds, by the recording's own clock, or since the camera's first frame. arrived_s: time.perf_counter() when the
    decoded image was there, from which its latency and age count. camera: the name its camera has in outputs, without passwords.
    unix_s: time of day of its arrival, seconds since 1970; 0 where nobody asked.
    """

    image: NDArray[np.uint8]
    index: int
    timestamp_s: float
    arrived_s: float
    camera: str = ""
    unix_s: float = 0.0
