"""Writes the other runtimes' models in int8: `python -m bench.runtimes.quantize RUNTIME SOURCE TARGET ROWS`.

RUNTIME: `onnx`, with scales for each channel of the weights, and one for the whole input at each product; or
`openvino`, by NNCF with activations' scales from the rows of token ids in the JSON file ROWS.
"""

import json
import sys
from pathlib import Path

from bench.runtimes.loaders import pad


def main() -> None:
    """Quantise one file."""
    runtime, source, target, rows = sys.argv[1:]
    {"onnx": _quantize_onnx, "openvino": _quantize_openvino}[runtime](Path(source), Path(target), Path(rows))


def _quantize_onnx(source: Path, target: Path, _rows: Path) -> None:
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    saturates = "avx512_vnni" not in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    # of the fused operators ONNX's shape inference knows nothing
    options = {"DefaultTensorType": onnx.TensorProto.FLOAT}
    kinds = {"per_channel": True, "reduce_range": saturates, "weight_type": QuantType.QInt8}
    quantize_dynamic(source, target, **kinds, extra_options=options)


def _quantize_openvino(source: Path, target: Path, rows: Path) -> None:
    import nncf
    import openvino

    given = [pad([row]) for row in json.loads(rows.read_text(encoding="utf-8"))]
    model = openvino.Core().read_model(source)
    quantized = nncf.quantize(model, nncf.Dataset(given), model_type=nncf.ModelType.TRANSFORMER, subset_size=len(given))
    openvino.save_model(quantized, target)


if __name__ == "__main__":
    main()
