"""How many anchors may enter the NMS plugin, whose memory grows with batch, anchors and classes, on a GPU with so much memory left.

At 640 pixels, nine anchors a cell and 80 classes the plugin takes 147 MB an image: 1.2 GB at batch 8, which a Jetson does not have.
"""

from __future__ import annotations

from collections.abc import Sequence

from retinanet_edge.export.nms import plugin_workspace_bytes
from retinanet_edge.runtime.errors import EngineError

SHARE_OF_FREE_MEMORY = 0.1  # what the plugin may take
LARGEST_K = 3840  # of TensorRT's TopK layer


def kept_anchors(sizes: Sequence[int], k: int | None) -> int:
    """Return how many of all anchors enter NMS where each level keeps at most k, None for all."""
    return sum(sizes) if k is None else sum(min(size, k) for size in sizes)


def fitting_top_k(sizes: Sequence[int], classes: int, batch: int, free_bytes: int) -> int | None:
    """Return the largest K per level with which the plugin stays within a tenth of the free memory; None where it does without one.

    sizes: anchors of each level. batch: the largest. Raises EngineError where not even one anchor of each level fits.
    """
    room = free_bytes * SHARE_OF_FREE_MEMORY

    def fits(k: int | None) -> bool:
        return plugin_workspace_bytes(kept_anchors(sizes, k), classes, batch) <= room

    if fits(None):
        return None
    k = next(filter(fits, range(LARGEST_K, 0, -1)), None)
    if k is None:
        raise EngineError(
            f"the NMS plugin must fit a tenth of the free GPU memory, {free_bytes / 1e6:.0f} MB, and does not with {batch} images of "
            f"{classes} classes at all: give a smaller --batch, or see nvidia-smi for what takes the memory"
        )
    return k
