"""Inputs to rows of token ids or pixels, and token ids back to text. No torch, no transformers at module level.

In: `chat_template` of messages (by `template_process`, which runs `template_renderer`) → `tokenizer` of texts (over
`tokenizer_file`, with its `word_cache` and `windows`, within `normalized_length` and `long_texts`) or
`token_ids` as clients send them; `images`, within `image_memory` and by `tiff_header`. Out: `detokenizer`, `clean_up`.
`panics` of Rust libraries become errors.
"""
