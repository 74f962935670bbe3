"""The datatypes of the Open Inference Protocol's tensors, and the data that each can have."""

from collections.abc import Sequence

import numpy

from serving.errors import Malformed

NUMBERS = {
    "BOOL": numpy.dtype("?"),
    **{f"INT{8 * size}": numpy.dtype(f"<i{size}") for size in (1, 2, 4, 8)},
    **{f"UINT{8 * size}": numpy.dtype(f"<u{size}") for size in (1, 2, 4, 8)},
    "FP32": numpy.dtype("<f4"),
    "FP64": numpy.dtype("<f8"),
}
"""Datatypes of numbers, which parameters may have."""


def check_datatype(elements: Sequence[object], datatype: str, where: str) -> None:
    """Raise Malformed for elements that the datatype cannot have. where: names the tensor."""
    kind = NUMBERS.get(datatype)
    if kind is None:
        is_right, rule = all(isinstance(each, str | bytes | None) for each in elements), "texts"
    elif datatype == "BOOL":
        is_right, rule = all(isinstance(each, bool) for each in elements), "true or false"
    else:
        is_whole = kind.kind != "f"
        info = numpy.iinfo(kind) if is_whole else numpy.finfo(kind)
        low, high = (int(info.min), int(info.max)) if is_whole else (float(info.min), float(info.max))
        kinds = int if is_whole else int | float
        is_right = all(
            isinstance(each, kinds) and not isinstance(each, bool) and low <= each <= high for each in elements
        )
        rule = f"{'whole ' if is_whole else ''}numbers from {low} to {high}"
    if not is_right:
        raise Malformed(f"{where} has datatype {datatype} and other data: send {rule}, or choose another datatype")
