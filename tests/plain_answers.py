"""Whether a served version answers as plain transformers does, one input at a time: a check for each task."""

import base64
import inspect
import pickle
from collections.abc import Callable
from functools import cached_property
from io import BytesIO
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy
import torch
import transformers

from tests.alike import assert_alike
from tests.families import WORDS, texts_of
from tests.local import Local

TEXTS = texts_of(24, 1)
PAIRS = list(zip(texts_of(24, 2, 20), texts_of(24, 3, 20), strict=True))
Ask = list[dict[str, Any]]


def bodies(inputs: list[Any], **parameters: Any) -> Ask:
    return [{"inputs": item, "parameters": parameters} for item in inputs]


class Mould(pickle.Pickler):
    """Makes a module again as it was when this was made, in a tenth of the time of `deepcopy`."""

    def __init__(self, module: torch.nn.Module) -> None:
        self._file, self._kept = BytesIO(), dict[int, Any]()
        super().__init__(self._file, pickle.HIGHEST_PROTOCOL)
        self.dump(module)

    def persistent_id(self, found: Any) -> int | None:
        """pickle's hook: a name for what is not pickled, tensors and functions; None for anything else."""
        if not isinstance(found, torch.Tensor | FunctionType):
            return None
        self._kept[id(found)] = found
        return id(found)

    def make(self) -> Any:
        """The module with its own weights, which no forward pass changes in place, and copies of all else."""
        shared = (torch.nn.Parameter, FunctionType)
        made = {name: found if isinstance(found, shared) else found.clone() for name, found in self._kept.items()}
        unpickler = pickle.Unpickler(BytesIO(self._file.getbuffer()))
        unpickler.persistent_load = made.__getitem__  # type: ignore[method-assign]  # as pickle's documentation says
        return unpickler.load()


class Plain:
    """The artifact's model and tokenizer as plain transformers loads them."""

    def __init__(self, folder: Path, auto_class: str) -> None:
        self.model = getattr(transformers, auto_class).from_pretrained(folder, dtype=torch.float32).eval()
        self.folder = folder
        self._mould = Mould(self.model)

    def fresh(self) -> Any:
        """A model that has answered nothing before: a forward pass may change one for good."""
        return self._mould.make()

    @cached_property
    def tokenizer(self) -> Any:
        return transformers.AutoTokenizer.from_pretrained(self.folder)

    def encode(self, *texts: str, **options: Any) -> Any:
        """The tokenizer's inputs that the model takes."""
        encoded = self.tokenizer(*texts, return_tensors="pt", **options)
        taken = inspect.signature(self.model.forward).parameters
        for name in set(encoded) - {"input_ids", "attention_mask"} - taken.keys():
            del encoded[name]
        return encoded

    def call(self, **inputs: Any) -> Any:
        """What a model answers that has answered nothing before."""
        return self.fresh()(**inputs)

    def run(self, *texts: str) -> Any:
        return self.call(**self.encode(*texts))

    @cached_property
    def half(self) -> Any:
        """The encoder, where the model does not run on a text alone, else the model."""
        try:
            self.run(TEXTS[0])
        except (TypeError, ValueError):
            return lambda **inputs: self.fresh().get_encoder()(**inputs)
        return self.call


def check_scores(found: list[dict[str, Any]], logits: torch.Tensor, labels: dict[int, str]) -> None:
    expected = {labels[index]: value for index, value in enumerate(logits.softmax(-1).tolist())}
    assert_alike({entry["label"]: entry["score"] for entry in found}, expected)


def feature_extraction(plain: Plain, local: Local) -> None:
    if local.contract.processor.image:
        return images(
            plain, local, lambda answer, output: assert_alike(answer, output.last_hidden_state[0]), pooling="raw"
        )
    for answer, text in zip(local.answers(bodies(TEXTS, pooling="raw")), TEXTS, strict=True):
        assert_alike(answer, plain.half(**plain.encode(text)).last_hidden_state[0])
    for answer, text in zip(local.answers(bodies(TEXTS, pooling="last", dimensions=8)), TEXTS, strict=True):
        assert_alike(answer, plain.half(**plain.encode(text)).last_hidden_state[0, -1, :8])
    return None


def text_classification(plain: Plain, local: Local) -> None:
    inputs = [*TEXTS, *({"text": text, "text_pair": pair} for text, pair in PAIRS)]
    expected = [(text,) for text in TEXTS] + PAIRS
    for answer, texts in zip(local.answers(bodies(inputs)), expected, strict=True):
        check_scores(answer[0], plain.run(*texts).logits[0], plain.model.config.id2label)


def token_classification(plain: Plain, local: Local) -> None:
    asked = bodies(TEXTS, aggregation_strategy="none", ignore_labels=[])
    for answer, text in zip(local.answers(asked), TEXTS, strict=True):
        real = ~torch.tensor(plain.tokenizer(text, return_special_tokens_mask=True)["special_tokens_mask"]).bool()
        scores = plain.run(text).logits[0].softmax(-1)[real]
        assert_alike([entry["score"] for entry in answer], scores.amax(-1))
        named = [plain.model.config.label2id[entry["entity"]] for entry in answer]
        assert_alike(scores[range(len(named)), named], scores.amax(-1))


def question_answering(plain: Plain, local: Local) -> None:
    inputs = [{"question": question, "context": context} for question, context in PAIRS]
    for answer, (question, context) in zip(local.answers(bodies(inputs, align_to_words=False)), PAIRS, strict=True):
        tokenizer = plain.tokenizer
        is_second = tokenizer.padding_side == "right"
        texts = (question, context) if is_second else (context, question)
        encoded = tokenizer(*texts, return_offsets_mapping=True)
        offsets = encoded["offset_mapping"]
        counted = [sequence == is_second for sequence in encoded.sequence_ids()]
        seen = [
            inside or token == tokenizer.cls_token_id
            for inside, token in zip(counted, encoded["input_ids"], strict=True)
        ]
        output = plain.run(*texts)
        hidden = ~torch.tensor(seen)
        starts, ends = (
            logits[0].masked_fill(hidden, -10_000).softmax(-1) for logits in (output.start_logits, output.end_logits)
        )
        places = [place for place, inside in enumerate(counted) if inside]
        best = max(
            (float(starts[start] * ends[end]), offsets[start][0], offsets[end][1])
            for start in places
            for end in places
            if start <= end < start + 15
        )
        assert_alike(answer["score"], best[0])
        assert answer["answer"] == context[answer["start"] : answer["end"]]


def fill_mask(plain: Plain, local: Local) -> None:
    mask = plain.tokenizer.mask_token
    texts = [f"{text} {mask} the end" for text in TEXTS[:12]] + [f"{mask} {text} {mask}" for text in TEXTS[12:]]
    answers = local.answers(bodies(texts, top_k=3))
    for answer, text in zip(answers, texts, strict=True):
        encoded = plain.encode(text)
        places = (encoded["input_ids"][0] == plain.tokenizer.mask_token_id).nonzero()[:, 0]
        scores = plain.call(**encoded).logits[0, places].softmax(-1)
        lists = [answer] if len(places) == 1 else answer
        best = scores.topk(3).values
        assert_alike([[entry["score"] for entry in found] for found in lists], best)
        assert_alike(scores.gather(1, torch.tensor([[entry["token"] for entry in found] for found in lists])), best)
    (scored,) = local.answers(bodies(texts[:1], targets=[WORDS[0], WORDS[1]]))
    assert len(scored) == 2


def generated(plain: Plain, local: Local, field: str = "generated_text") -> None:
    asked = bodies(TEXTS, max_new_tokens=6, do_sample=False)
    for answer, text in zip(local.answers(asked), TEXTS, strict=True):
        encoded = plain.encode(text, return_token_type_ids=False)
        written = plain.fresh().generate(
            **encoded, max_new_tokens=6, do_sample=False, pad_token_id=plain.tokenizer.pad_token_id
        )
        start = 1 if plain.model.config.is_encoder_decoder else encoded["input_ids"].shape[1]
        expected = plain.tokenizer.decode(written[0, start:], skip_special_tokens=True)
        assert answer == [{field: expected}]
    drawn = local.answers(bodies(TEXTS[:6] * 2, max_new_tokens=6, seed=7))
    assert drawn[:6] == drawn[6:]


def multiple_choice(plain: Plain, local: Local) -> None:
    items = [{"prompt": text, "choices": texts_of(2 + index % 4, index, 12)} for index, text in enumerate(TEXTS)]
    for answer, item in zip(local.answers(bodies(items, truncate=True)), items, strict=True):
        logits = []
        for choice in item["choices"]:
            encoded = plain.encode(item["prompt"], choice)
            logits.append(plain.call(**{name: tensor.unsqueeze(1) for name, tensor in encoded.items()}).logits[0, 0])
        expected = torch.stack(logits).softmax(-1).tolist()
        assert_alike({entry["choice"]: entry["score"] for entry in answer}, dict(enumerate(expected)))


def next_sentence_prediction(plain: Plain, local: Local) -> None:
    items = [{"text": text, "text_pair": pair} for text, pair in PAIRS]
    for answer, (text, pair) in zip(local.answers(bodies(items)), PAIRS, strict=True):
        assert_alike(answer["score"], plain.run(text, pair).logits[0].softmax(-1)[0].item())


def images(plain: Plain, local: Local, check: Callable[[Any, Any], None], **parameters: Any) -> None:
    from PIL import Image

    processor = transformers.AutoImageProcessor.from_pretrained(plain.folder, backend="pil")
    rng = numpy.random.default_rng(0)
    drawn = [
        Image.fromarray(rng.integers(0, 255, (20 + 7 * index, 90 - 5 * index, 3), dtype=numpy.uint8))
        for index in range(12)
    ]
    texts = []
    for image in drawn:
        file = BytesIO()
        image.save(file, "PNG")
        texts.append(base64.b64encode(file.getvalue()).decode())
    for answer, image in zip(local.answers(bodies(texts, **parameters)), drawn, strict=True):
        check(answer, plain.call(**processor(images=image, return_tensors="pt")))


def image_classification(plain: Plain, local: Local) -> None:
    labels = plain.model.config.id2label
    images(plain, local, lambda answer, output: check_scores(answer, output.logits[0], labels))


CHECKS: dict[str, Callable[[Plain, Local], None]] = {
    "feature-extraction": feature_extraction,
    "text-classification": text_classification,
    "token-classification": token_classification,
    "question-answering": question_answering,
    "fill-mask": fill_mask,
    "text-generation": generated,
    "text2text-generation": generated,
    "multiple-choice": multiple_choice,
    "next-sentence-prediction": next_sentence_prediction,
    "image-classification": image_classification,
}
