"""TensorRT without the NMS plugin, through Polygraphy: the network's own outputs, or any of its tensors, for comparison.

Engines are built for the comparison alone, of one image, and without TF32; Polygraphy, an implementation of its own, drives them. Marking
tensors as outputs keeps TensorRT from fusing layers over them: a fault of a fused kernel may hide from that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retinanet_edge.export.build_machine import is_weakly_typed
from retinanet_edge.runtime.errors import EngineError
from retinanet_edge.runtime.model_card import Precision
from retinanet_edge.runtime.tensorrt_library import created, one_line, tensorrt_logger

Run = Callable[[NDArray[np.uint8]], dict[str, NDArray[Any]]]

_FLOATS = ("FLOAT", "HALF")


@contextmanager
def engine_without_plugin(
    source: Path, precision: Precision, shape: tuple[int, ...], tensors: Sequence[str] | None = None
) -> Iterator[Run]:
    """Give a function from images, uint8 of `shape`, to arrays by name, copies of their own.

    source: ONNX file without the plugin. tensors: those to give, of which TensorRT's network may lack some; None for the file's outputs.
    Raises ModuleNotFoundError without Polygraphy, EngineError where TensorRT refuses.
    """
    with _in_one_line():
        from polygraphy.backend.trt import TrtRunner, engine_from_network

        with TrtRunner(engine_from_network(_network(source, tensors), _config(precision, shape))) as runner:
            yield lambda images: {name: np.array(values) for name, values in runner.infer({"images": images}).items()}


def _network(source: Path, tensors: Sequence[str] | None) -> Any:
    """Return builder, network and parser of an ONNX file, its outputs those of `tensors` that are floating point here."""
    from polygraphy.backend.trt import modify_network_outputs, network_from_onnx_bytes

    builder, network, parser = created(lambda: network_from_onnx_bytes(source.read_bytes()))
    if tensors is None:
        return builder, network, parser
    made = [layer.get_output(index) for layer in network for index in range(layer.num_outputs)]
    known = {tensor.name for tensor in made if tensor is not None and tensor.dtype.name in _FLOATS}
    return modify_network_outputs((builder, network, parser), outputs=[name for name in tensors if name in known])


def _config(precision: Precision, shape: tuple[int, ...]) -> Any:
    from polygraphy.backend.trt import CreateConfig, Profile

    profile = Profile().add("images", min=shape, opt=shape, max=shape)
    lower = is_weakly_typed() and precision != "fp32"  # else the types are those of the file
    return CreateConfig(profiles=[profile], tf32=False, fp16=lower, int8=lower and precision == "int8")


@contextmanager
def _in_one_line() -> Iterator[None]:
    """Let Polygraphy print nothing, and turn what it raises into an EngineError with TensorRT's own reason."""
    import tensorrt as trt
    from polygraphy.exception import PolygraphyException
    from polygraphy.logger import G_LOGGER

    logger = tensorrt_logger()
    trt.init_libnvinfer_plugins(logger, "")  # before Polygraphy's: TensorRT keeps the first logger that it is given
    logger.take_errors()  # what earlier work left there
    with G_LOGGER.verbosity(G_LOGGER.CRITICAL + 1):
        try:
            yield
        except PolygraphyException as error:
            raise EngineError(
                f"TensorRT {trt.__version__} does not run the network without its plugin ({one_line(str(error))}; {logger.take_errors()}): "
                "see nvidia-smi for the memory that is left"
            ) from None
