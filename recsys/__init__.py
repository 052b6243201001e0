"""Shared contracts and pure algorithms: everything that the stream, training and serving must agree on."""

import os

__version__ = "0.1.0"

# onnxruntime from 1.29 on sends events to its maker, keeps an id of the machine in ~/.cache and starts a thread for
# both, all when it is imported
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
