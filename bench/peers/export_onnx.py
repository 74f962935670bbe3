"""Writes a sequence classifier as ONNX: `python -m bench.peers.export_onnx MODEL TARGET`, a checkpoint's folder in.

In its favour: ONNX Runtime's own optimizer for transformers fuses attention, layer norm and GELU.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from onnxruntime.transformers.optimizer import optimize_model
from transformers import AutoModelForSequenceClassification

NAMES = ["input_ids", "attention_mask"]


def main() -> None:
    """Export with both axes dynamic, optimize, save as TARGET/model.onnx."""
    source, target = sys.argv[1], Path(sys.argv[2])
    target.mkdir(parents=True)
    model: Any = AutoModelForSequenceClassification.from_pretrained(source, attn_implementation="eager").eval()
    model.config.return_dict = False
    example = torch.tensor([[101, 2023, 2003, 102], [101, 2023, 102, 0]])
    axes = {name: {0: "rows", 1: "tokens"} for name in NAMES}
    torch.onnx.export(
        model,
        (example, (example > 0).long()),
        str(target / "raw.onnx"),
        input_names=NAMES,
        output_names=["logits"],
        dynamic_axes=axes | {"logits": {0: "rows"}},
        dynamo=False,
    )
    config = model.config
    optimized = optimize_model(
        str(target / "raw.onnx"), "bert", num_heads=config.num_attention_heads, hidden_size=config.hidden_size
    )
    optimized.save_model_to_file(str(target / "model.onnx"))
    print(optimized.get_fused_operator_statistics(), file=sys.stderr)


if __name__ == "__main__":
    main()
