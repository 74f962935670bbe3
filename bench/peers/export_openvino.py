"""Writes a sequence classifier as OpenVINO IR: `python -m bench.peers.export_openvino MODEL TARGET`."""

import sys
from pathlib import Path
from typing import Any

import openvino
import torch
from transformers import AutoModelForSequenceClassification


def main() -> None:
    """Convert with both axes dynamic, save as TARGET/model.xml with the weights as they are."""
    source, target = sys.argv[1], Path(sys.argv[2])
    target.mkdir(parents=True)
    model: Any = AutoModelForSequenceClassification.from_pretrained(source).eval()
    model.config.return_dict = False
    example = torch.tensor([[101, 2023, 2003, 102], [101, 2023, 102, 0]])
    converted = openvino.convert_model(
        model, example_input={"input_ids": example, "attention_mask": (example > 0).long()}
    )
    openvino.save_model(converted, target / "model.xml", compress_to_fp16=False)


if __name__ == "__main__":
    main()
