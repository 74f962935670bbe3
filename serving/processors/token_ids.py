"""Texts that clients send as token ids, as OpenAI's interface allows: the row has these tokens and no others."""

from array import array

import msgspec

from serving.errors import Unprocessable
from serving.processors.tokenizer import TextEncoder, TextParameters
from serving.wire.messages import EncodedRow


class TokenIds(msgspec.Struct, frozen=True, gc=False):
    """The tokens of a text. The client adds special tokens itself. Its length is the number of tokens."""

    ids: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.ids)


def encode_ids(
    given: TokenIds,
    encoder: TextEncoder,
    *,
    parameters: TextParameters,
    batch_key: str = "",
    max_tokens: int | None = None,
) -> EncodedRow:
    """The row of a text's tokens. The arguments are those of `TextEncoder.encode`.

    Raises Unprocessable for too many tokens that are not to be cut, and for an id that the model does not know.
    """
    ids, most = given.ids, encoder.max_row_tokens(parameters, max_tokens)
    if len(ids) > most:
        if not parameters.truncate:
            raise Unprocessable(f"inputs has {len(ids):,} tokens, this model takes at most {most:,} tokens: send fewer")
        ids = ids[-most:] if (parameters.cut_side or encoder.truncation_side) == "left" else ids[:most]
    unknown = next((each for each in ids if not encoder.has_id(each)), None)
    if unknown is not None:
        raise Unprocessable(
            f"inputs has the token id {unknown}, which this model's tokenizer does not have: send ids of its vocabulary"
        )
    encoder.refuse_absent(ids, "inputs")
    return EncodedRow(len(ids), array("i", ids).tobytes(), batch_key=batch_key)
