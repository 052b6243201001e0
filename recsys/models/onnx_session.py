"""One way to open an ONNX model for serving."""

from collections.abc import Sequence
from pathlib import Path

import onnxruntime as ort

from recsys.contracts.errors import InvalidBundle


def open_session(
    name: str, model: Path | bytes, threads: int = 1, providers: Sequence[str] = ("CPUExecutionProvider",)
) -> ort.InferenceSession:
    """A session whose single run uses `threads` threads. Thread-safe: onnxruntime's `run` is.

    Raises:
        InvalidBundle: naming `name`, when this is not an ONNX model.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    source = model if isinstance(model, bytes) else str(model)
    try:
        return ort.InferenceSession(source, options, providers=list(providers))
    except Exception as error:  # onnxruntime raises many kinds without a common base of its own
        raise InvalidBundle(f"{name}: {error}") from error
