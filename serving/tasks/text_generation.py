"""text-generation: text that continues a prompt, by greedy search or sampling."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from registry.contract import Contract
from serving.errors import Unprocessable
from serving.processors.chat_template import ChatTemplate
from serving.processors.token_ids import TokenIds, encode_ids
from serving.tasks.base.generated_text import GeneratedText, answer
from serving.tasks.base.generation import (
    GeneratingTask,
    GenerationDefaults,
    GenerationParameters,
    default_new_tokens,
    make_rows,
    requested_new_tokens,
)
from serving.tasks.base.version_context import VersionContext
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

    def make_version_context(self, folder: Path, contract: Contract) -> VersionContext:
        """Read the tokenizer's chat template, too."""
        return replace(super().make_version_context(folder, contract), chat=ChatTemplate.find(folder))

    def encode(self, item: str | TokenIds, parameters: Parameters, version: VersionContext) -> Encoded[str]:
        """A row per text. Without max_new_tokens a text may fill the model's limit, up to the contract's default."""
        defaults, longest = version.defaults, version.contract.max_tokens
        asked = requested_new_tokens(parameters, defaults)
        if asked and asked >= longest:
            raise Unprocessable(
                f"parameters.max_new_tokens is {asked:,}; this model takes {longest:,} tokens, the prompt included"
            )
        most = max(1, _longest_prompt(asked, parameters, version))
        if isinstance(item, TokenIds):
            row = encode_ids(item, version.tokenizer, parameters=parameters, max_tokens=most)
            prompt = version.tokenizer.read(item.ids) if parameters.return_full_text else ""
        else:
            special = parameters.add_special_tokens
            row, _ = version.tokenizer.encode(item, parameters=parameters, max_tokens=most, special=special)
            prompt = item
        count = asked or default_new_tokens(defaults, row.length)
        return Encoded(make_rows(row, parameters, min(count, max(1, longest - row.length))), prompt)

    def text_before(self, prompt: str, parameters: Parameters) -> str:
        """The prompt, where it was requested."""
        return prompt if parameters.return_full_text else ""

    def decode(
        self, rows: Sequence[RowArrays], prompt: str, parameters: Parameters, version: VersionContext
    ) -> list[GeneratedText]:
        """`[{"generated_text": …}, …]`, an entry per text."""
        return answer(rows, parameters, version, "generated_text", self.text_before(prompt, parameters))


def _longest_prompt(asked: int | None, parameters: Parameters, version: VersionContext) -> int:
    """Tokens of the longest prompt. One that may be cut leaves room for all new tokens that it may get."""
    longest = version.contract.max_tokens
    defaults: GenerationDefaults = version.defaults
    if asked:
        return longest - asked
    if parameters.truncate is not True:  # a number of tokens says itself what is left
        return longest - 1
    if defaults.max_new_tokens:
        return longest - defaults.max_new_tokens
    return min(longest, defaults.max_length or longest) - 1


TASK = TextGeneration()
