"""The modules that a pooled vector passes, from their files in the artifact, as sentence-transformers 6.2 runs them."""

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from registry.contract import VectorLayer
from registry.errors import IncompleteArtifact
from registry.sentence_folder import ACTIVATIONS, WEIGHTS


class Dense(torch.nn.Module):
    """A linear projection, an activation, and where the layer is residual the input added to it."""

    def __init__(self, layer: VectorLayer) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(layer.inputs, layer.outputs, bias=layer.bias)
        self.activation: torch.nn.Module = getattr(torch.nn, layer.activation)()
        self.is_residual = layer.residual
        if layer.residual and layer.inputs != layer.outputs:
            self.residual = torch.nn.Linear(layer.inputs, layer.outputs, bias=False)

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """(rows, inputs) → (rows, outputs) float32."""
        projected: torch.Tensor = self.activation(self.linear(vectors))
        if not self.is_residual:
            return projected
        return projected + (self.residual(vectors) if hasattr(self, "residual") else vectors)


class LayerNorm(torch.nn.Module):
    """Layer normalisation with weights."""

    def __init__(self, layer: VectorLayer) -> None:
        super().__init__()
        self.norm = torch.nn.LayerNorm(layer.inputs)

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """(rows, inputs) float32, of mean 0 and variance 1 before the weights."""
        normed: torch.Tensor = self.norm(vectors)
        return normed


class Normalize(torch.nn.Module):
    """Vectors of Euclidean length 1."""

    def __init__(self, layer: VectorLayer) -> None:
        super().__init__()

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """(rows, inputs) float32."""
        return torch.nn.functional.normalize(vectors, dim=-1)


_KINDS: dict[str, type[torch.nn.Module]] = {"dense": Dense, "layer_norm": LayerNorm, "normalize": Normalize}


def load_layers(folder: Path, layers: Sequence[VectorLayer], device: torch.device) -> torch.nn.Module | None:
    """The layers in order, float32 on the device; None for none. folder: the model's.

    Raises IncompleteArtifact for weights that are missing or are not those that the contract describes.
    """
    if not layers:
        return None
    return torch.nn.Sequential(*[_load(folder, layer) for layer in layers]).eval().requires_grad_(False).to(device)


def _load(folder: Path, layer: VectorLayer) -> torch.nn.Module:
    if layer.activation and layer.activation not in ACTIVATIONS:
        raise IncompleteArtifact(
            f"the contract's layer has the activation {layer.activation!r}, which is not served: log the model again"
        )
    module = _KINDS[layer.kind](layer)
    if not layer.folder:
        return module
    file = f"{layer.folder}/{WEIGHTS}"
    try:
        weights = {name: tensor.float() for name, tensor in load_file(folder / file).items()}
        module.load_state_dict(weights)
    except (OSError, SafetensorError, RuntimeError) as error:
        cause = " ".join(str(error).split())
        raise IncompleteArtifact(
            f"{file} does not hold what {layer.folder}/config.json describes ({cause}): save the model again with "
            "SentenceTransformer's save"
        ) from error
    return module
