"""The files that sentence-transformers writes beside a model, as structs: every key that 2.0 to 6.2 know, and no other.

A key of one value only is allowed no other: it would change the vectors in a way that is not served.
"""

from typing import Annotated, Any, Literal, get_args

import msgspec

StatedPooling = Literal["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]
"""How a vector is made of the tokens' states, in the order in which older files concatenate several."""

LayerSize = Annotated[int, msgspec.Meta(ge=1)]


class Module(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """An entry of `modules.json`."""

    idx: int
    name: str
    path: str
    type: str
    kwargs: list[Any] | dict[str, Any] | None = None

    @property
    def kind(self) -> str:
        """The class, wherever the release keeps it."""
        return self.type.rpartition(".")[2]


class Whole(msgspec.Struct, forbid_unknown_fields=True):
    """`config_sentence_transformers.json`."""

    versions: dict[str, Any] | None = msgspec.field(default=None, name="__version__")
    prompts: dict[str, str | None] | None = None
    default_prompt_name: str | None = None
    similarity_fn_name: Literal["cosine", "dot", "dot_score", "euclidean", "manhattan"] | None = None
    """How vectors are compared, which is the client's doing: it does not change them."""
    model_type: Literal["SentenceTransformer"] | None = None
    truncate_dim: LayerSize | None = None
    requirements: None = None


class States(msgspec.Struct, forbid_unknown_fields=True):
    """Where the transformer's states come from."""

    method: Literal["forward"]
    method_output_name: Literal["last_hidden_state"]


class Modalities(msgspec.Struct, forbid_unknown_fields=True):
    """What the transformer reads: text, as plain texts."""

    text: States


class NoArguments(msgspec.Struct, forbid_unknown_fields=True):
    """Arguments of one loading or another: any changes what is loaded."""


class Arguments(msgspec.Struct, forbid_unknown_fields=True):
    """Keys of a transformer's settings that no folder that is served sets, and one that changes no vector."""

    unpad_inputs: bool | None = None
    processing_kwargs: NoArguments | None = None
    query_length: None = None
    document_length: None = None
    query_expansion: None = None
    model_args: NoArguments | None = None
    model_kwargs: NoArguments | None = None
    tokenizer_args: NoArguments | None = None
    processor_kwargs: NoArguments | None = None
    config_args: NoArguments | None = None
    config_kwargs: NoArguments | None = None


class Transformer(Arguments, forbid_unknown_fields=True):
    """The transformer's settings, of which releases before 5.4 wrote the first two."""

    max_seq_length: LayerSize | None = None
    do_lower_case: bool = False
    transformer_task: Literal["feature-extraction"] = "feature-extraction"
    modality_config: Modalities | None = None
    module_output_name: Literal["token_embeddings"] | None = None


class WholeCrossEncoder(msgspec.Struct, forbid_unknown_fields=True):
    """`config_sentence_transformers.json` of a CrossEncoder, as release 6.2 writes it. No prompt is served."""

    model_type: Literal["CrossEncoder"]
    versions: dict[str, Any] | None = msgspec.field(default=None, name="__version__")
    prompts: dict[str, str | None] | None = None
    default_prompt_name: None = None
    activation_fn: str | None = None
    keep_in_fp32_modules: list[str] | None = None
    """They say in which precision layers are computed."""


class Logits(msgspec.Struct, forbid_unknown_fields=True):
    """Where a CrossEncoder's scores come from."""

    method: Literal["forward"]
    method_output_name: Literal["logits"]


class ScoredModalities(msgspec.Struct, forbid_unknown_fields=True):
    """What a CrossEncoder's transformer reads: text, as plain texts."""

    text: Logits


class ScoringTransformer(Arguments, forbid_unknown_fields=True):
    """The transformer's settings of a CrossEncoder. The tokenizer's own limit holds."""

    max_seq_length: None = None
    do_lower_case: Literal[False] = False
    transformer_task: Literal["sequence-classification"] = "sequence-classification"
    modality_config: ScoredModalities | None = None
    module_output_name: Literal["scores"] | None = None


class Pooling(msgspec.Struct, forbid_unknown_fields=True):
    """`config.json` of a Pooling, in the keys of release 6 and of older ones."""

    word_embedding_dimension: LayerSize | None = None
    embedding_dimension: LayerSize | None = None
    pooling_mode: StatedPooling | Annotated[tuple[StatedPooling, ...], msgspec.Meta(min_length=1)] | None = None
    cls: bool = msgspec.field(default=False, name="pooling_mode_cls_token")
    max: bool = msgspec.field(default=False, name="pooling_mode_max_tokens")
    mean: bool = msgspec.field(default=False, name="pooling_mode_mean_tokens")
    mean_sqrt_len_tokens: bool = msgspec.field(default=False, name="pooling_mode_mean_sqrt_len_tokens")
    weightedmean: bool = msgspec.field(default=False, name="pooling_mode_weightedmean_tokens")
    lasttoken: bool = msgspec.field(default=False, name="pooling_mode_lasttoken")
    include_prompt: bool = True

    def modes(self) -> tuple[str, ...]:
        """The modes by the names that feature-extraction has for them. Without any, the product takes the mean."""
        older = tuple(mode for mode in get_args(StatedPooling) if getattr(self, mode))
        found = (self.pooling_mode,) if isinstance(self.pooling_mode, str) else self.pooling_mode or older or ("mean",)
        return tuple("last" if mode == "lasttoken" else mode for mode in found)


class Places(msgspec.Struct, forbid_unknown_fields=True):
    """What a module reads and writes, and `config.json` of a Normalize."""

    module_input_name: Literal["sentence_embedding"] = "sentence_embedding"
    module_output_name: Literal["sentence_embedding"] | None = None


class DenseConfig(Places, forbid_unknown_fields=True, kw_only=True):
    """`config.json` of a Dense module."""

    in_features: LayerSize
    out_features: LayerSize
    bias: bool = True
    activation_function: str = "torch.nn.modules.activation.Tanh"
    use_residual: bool = False


class LayerNormConfig(msgspec.Struct, forbid_unknown_fields=True):
    """`config.json` of a LayerNorm module."""

    dimension: LayerSize


class Dropout(msgspec.Struct, forbid_unknown_fields=True):
    """`config.json` of a Dropout."""

    dropout: float = 0.2
