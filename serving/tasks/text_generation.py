"""text-generation: text that continues a prompt, by greedy search or sampling."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from registry.contract import Contract
from serving.errors import Unprocessable
from serving.processors.chat_template import ChatTemplate
from serving.tasks.base.generated_text import GeneratedText, answer
from serving.tasks.base.generation import (
    GeneratingTask,
    GenerationDefaults,
    GenerationParameters,
    count_new_tokens,
    make_rows,
)
from serving.tasks.base.task import VersionContext
from serving.wire.messages import Encoded, RowArrays


class Parameters(GenerationParameters, frozen=True):
    """return_full_text: whether the answer begins with the prompt."""

    return_full_text: bool = False


class TextGeneration(GeneratingTask[Parameters, str]):
    """Prompt → texts. Prompt and new tokens together are within the model's limit."""

    name = "text-generation"
    parameters_type = Parameters
    defaults_type = GenerationDefaults
    example = ("Once upon a time", "The quick brown fox jumps over the lazy dog, and then")

    def serve(self, folder: Path, contract: Contract) -> VersionContext:
        """Read the tokenizer's chat template, too."""
        return replace(super().serve(folder, contract), chat=ChatTemplate.find(folder))

    def encode(self, item: str, parameters: Parameters, version: VersionContext) -> Encoded[str]:
        """A row per text. Without max_new_tokens a text may fill the model's limit, up to the contract's default."""
        count, longest = count_new_tokens(parameters, version.defaults), version.contract.max_tokens
        if parameters.max_new_tokens and count >= longest:
            raise Unprocessable(
                f"parameters.max_new_tokens is {count:,}; this model takes {longest:,} tokens, the prompt included"
            )
        needed = count if parameters.max_new_tokens or parameters.truncate is True else 1
        row, _ = version.tokenizer.encode(
            item,
            parameters=parameters,
            max_tokens=max(1, longest - needed),
            special=parameters.add_special_tokens,
        )
        return Encoded(make_rows(row, parameters, min(count, max(1, longest - row.length))), item)

    def text_before(self, prompt: str, parameters: Parameters) -> str:
        """The prompt, where it was requested."""
        return prompt if parameters.return_full_text else ""

    def decode(
        self, rows: Sequence[RowArrays], prompt: str, parameters: Parameters, version: VersionContext
    ) -> list[GeneratedText]:
        """`[{"generated_text": …}, …]`, an entry per text."""
        return answer(rows, parameters, version, "generated_text", self.text_before(prompt, parameters))


TASK = TextGeneration()
