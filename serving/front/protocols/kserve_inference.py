"""An inference request of the Open Inference Protocol, whether it came by HTTP or gRPC: its form, and what it asks.

An input is a BYTES tensor of text with one element per row: `text` or `inputs`, or one tensor for each part of the
task's inputs, such as `question` and `context`. The request's `parameters` are the task's; one that is a list of texts,
such as `candidate_labels`, may be a tensor.
"""

import base64
from typing import Annotated

import msgspec

from serving.errors import Malformed, Unprocessable
from serving.front.asgi import JsonObject
from serving.front.protocols.forms import read_form
from serving.front.protocols.kserve_tensors import Tensor, read_columns, take_inputs
from serving.tasks.base.fields import Name, drop_unsupported
from serving.tasks.base.request import Request, convert_request
from serving.tasks.base.task import AnyTask

UNSUPPORTED: dict[str, tuple[object, ...]] = {
    "sequence_id": (0, ""),
    "sequence_start": (False,),
    "sequence_end": (False,),
    "priority": (0,),
}
"""Triton's parameters of a request that are refused, with the values that ask for nothing."""
UNSUPPORTED_OF_OUTPUTS: dict[str, tuple[object, ...]] = {"classification": (0,)}
MAX_TENSORS = 64
"""Of a request. Untuned: tasks have up to five inputs, and a parameter may be one."""
MAX_ID = 1024
"""Characters of a request's id, which the answer repeats. Untuned."""
Microseconds = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class WantedParameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """binary_data: instead of the request's `binary_data_output`."""

    binary_data: bool | None = None


class RequestedOutput(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A requested output."""

    name: Name
    parameters: JsonObject = {}


class OwnParameters(msgspec.Struct, frozen=True):
    """The parameters of a request that are the protocol's. timeout: 0 for the server's own."""

    binary_data_output: bool = False
    timeout: Microseconds = 0


class OwnForm(msgspec.Struct, frozen=True):
    """Names the parameters in errors as clients write them."""

    parameters: OwnParameters


class InferenceForm(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An inference request. model_name, model_version: as in the path, where KServe's client repeats them."""

    inputs: Annotated[list[Tensor], msgspec.Meta(max_length=MAX_TENSORS)]
    id: Annotated[str, msgspec.Meta(max_length=MAX_ID)] | None = None
    parameters: JsonObject = {}
    outputs: Annotated[list[RequestedOutput], msgspec.Meta(max_length=MAX_TENSORS)] = []
    model_name: Name | None = None
    model_version: Name | None = None

    def check_path(self, name: str, version: str | None) -> None:
        """Raise Unprocessable where the body names another model or version than the path."""
        for field, own, asked in (
            ("model_name", self.model_name, name),
            ("model_version", self.model_version, version),
        ):
            if own and own != asked:
                raise Unprocessable(
                    f"{field} is {own!r}, and the path asks {asked or 'the live version'}: leave it out"
                )


class InferenceRequest:
    """What a request asks. as_binary: whether it wants the output in binary form. timeout_seconds: None for none.

    binary: the data that follow the JSON. max_rows: of a request. Raises Malformed, Unprocessable.
    """

    def __init__(self, form: InferenceForm, binary: bytes, max_rows: int) -> None:
        self._form, self._binary, self._max_rows = form, binary, max_rows
        unknown = [wanted.name for wanted in form.outputs if wanted.name != "output"]
        if unknown:
            raise Unprocessable(f"outputs names {unknown[0]!r}: there is one output, 'output'")
        if not form.inputs:
            raise Malformed("inputs is an empty list: it needs at least one tensor")
        parameters = dict(form.parameters)
        drop_unsupported(parameters, UNSUPPORTED, "parameters.")
        own = read_form({"parameters": parameters}, OwnForm).parameters
        self._parameters = {name: value for name, value in parameters.items() if name not in own.__struct_fields__}
        self.timeout_seconds = own.timeout / 1e6 or None
        self.as_binary = own.binary_data_output
        for wanted in form.outputs:
            drop_unsupported(wanted.parameters, UNSUPPORTED_OF_OUTPUTS, "outputs[].parameters.")
            asked = read_form(wanted.parameters, WantedParameters)
            self.as_binary = self.as_binary if asked.binary_data is None else asked.binary_data

    def read(self, task: AnyTask) -> Request:
        """The task's request. Raises ServingError."""
        inputs, more = take_inputs(read_columns(self._form.inputs, self._binary, self._max_rows), task)
        twice = next((name for name in more if self._parameters.get(name) is not None), None)
        if twice is not None:
            raise Malformed(f"inputs {twice!r} is in parameters, too: send it once")
        if task.takes_files:
            inputs = [base64.b64encode(entry).decode() if isinstance(entry, bytes) else entry for entry in inputs]
        return convert_request(inputs, self._parameters | more, task, self._max_rows)
