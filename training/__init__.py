import recsys  # noqa: F401 - before onnxruntime, whose telemetry it turns off
