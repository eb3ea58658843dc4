"""An engine that needs no model, as it finds bright rectangles, and a video that shows it some.

Run as a program, it is stream.py with this engine:

    python bright_engine.py [--pause SECONDS] <arguments of stream.py>

--pause makes each inference take so long, so that a test can interrupt a stream.
"""

import sys
import time
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

from retinanet_edge.runtime.detections import Detections
from retinanet_edge.runtime.engine import Inference
from retinanet_edge.runtime.errors import run_command
from retinanet_edge.runtime.model_card import AnchorSpec, InputSpec, ModelCard, NetworkSpec
from retinanet_edge.runtime.model_folder import write_card

HEIGHT, WIDTH = 48, 64


class BrightEngine:
    """Each connected region brighter than 200 is one detection: class "small" below 100 pixels of area, else "large"."""

    name, backend, precision, file = "bright regions on NumPy", "NumPy", "fp32", Path("bright")

    frame_size = None

    def __init__(self, max_batch=2, pause_s=0.0):
        self.max_batch, self.pause_s = max_batch, pause_s
        self.calls, self.closed = [], False

    def infer(self, images):
        if images.dtype != np.uint8 or images.shape[1:] != (HEIGHT, WIDTH, 3) or not 1 <= len(images) <= self.max_batch:
            raise ValueError(f"images must be uint8 [1..{self.max_batch}, {HEIGHT}, {WIDTH}, 3], got {images.dtype} {images.shape}")
        self.calls.append(len(images))
        time.sleep(self.pause_s)
        return Inference([self._regions(image) for image in images], {"network": 2.0, "nms": 1.0})

    def close(self):
        self.closed = True

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    @staticmethod
    def _regions(image):
        bright = (image.min(axis=2) > 200).astype(np.uint8)
        _, _, regions, _ = cv2.connectedComponentsWithStats(bright)
        x, y, width, height, _ = regions[1:].T  # the first is the background
        area = width * height
        order = np.argsort(-area)
        boxes = np.stack([x, y, x + width, y + height], axis=1)[order].astype(np.float32)
        return Detections(boxes, (0.5 + area[order] / (2 * HEIGHT * WIDTH)).astype(np.float32), (area[order] >= 100).astype(np.int64))


def write_model(folder):
    """Make a model folder for the engine: a card and nothing else."""
    folder.mkdir(parents=True, exist_ok=True)
    card = ModelCard(
        classes=("small", "large"),
        input=InputSpec(HEIGHT, WIDTH, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
        anchors=AnchorSpec((8,), (16.0,), (1.0,), (1.0,)),
        network=NetworkSpec("none", 1, 1, 0, "none"),
    )
    write_card(folder, card)
    return folder


def bright_image(index, height=HEIGHT, width=WIDTH):
    """Return a dark image with one bright square of 12 pixels, which moves by one pixel from image to image."""
    image = np.full((height, width, 3), 30, np.uint8)
    left = 4 + index % (width - 20)
    image[8:20, left : left + 12] = 255
    return image


def write_video(path, count, *, codec="libx264", fps=25, times_ms=None, options=None):
    """Write `count` bright images as a video whose index comes before its data, so that its beginning decodes."""
    with av.open(str(path), "w", options=options or {"movflags": "faststart"}) as container:
        stream = container.add_stream(codec, rate=fps)
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "rgb24" if codec == "png" else "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for index in range(count):
            frame = av.VideoFrame.from_ndarray(bright_image(index), format="bgr24")
            frame.time_base = Fraction(1, 1000)
            frame.pts = times_ms[index] if times_ms else round(index * 1000 / fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def main():
    pause_s = 0.0
    if sys.argv[1] == "--pause":
        pause_s = float(sys.argv[2])
        del sys.argv[1:3]
    from retinanet_edge.runtime.stream_arguments import stream_parser
    from retinanet_edge.runtime.stream_config import with_config
    from retinanet_edge.runtime.stream_options import options_from
    from retinanet_edge.runtime.stream_run import stream

    def options():
        parser = stream_parser("")
        return replace(options_from(parser.parse_args(with_config(parser, sys.argv[1:]))), engine=BrightEngine(pause_s=pause_s))

    stream(options(), options)


if __name__ == "__main__":
    sys.exit(run_command(main))
