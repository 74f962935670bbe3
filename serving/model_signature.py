"""The signature of a logged model, which MLflow shows, and enforces before `pyfunc.PyFunc.predict`.

The contract's example says what an input and an answer are; the task's parameters are MLflow's params.
"""

from collections.abc import Mapping
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict

import msgspec

from registry.contract import Contract
from registry.errors import ContractError
from serving.tasks import get_task
from serving.tasks.base.request import convert_request, disassemble

if TYPE_CHECKING:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, ParamSpec

SCALARS: Mapping[object, str] = {bool: "boolean", int: "long", float: "double", str: "string"}
"""Python's type → MLflow's."""
MAX_ROWS = 1 << 20


def make_signature(contract: Contract) -> "ModelSignature":
    """The signature of a model with this contract. Raises ContractError where it has no example.

    An input that is a text is a column without a name, so a list of texts or a table's first column are inputs; one
    with fields has a column for each field of the example's. An answer that is an object has a column a field.
    """
    from mlflow.models import ModelSignature
    from mlflow.types import ParamSchema, Schema

    if contract.example is None:
        raise ContractError("a contract without an example says nothing of inputs: log the model again")
    task = get_task(contract.task)
    request = convert_request(contract.example.inputs, contract.example.parameters, task, MAX_ROWS)
    (answer, *_) = disassemble(contract.example.output, request, task)
    item = msgspec.to_builtins(request.items[0])
    fields = {name: value for name, value in item.items() if value is not None} if isinstance(item, dict) else item
    hint = get_type_hints(task.decode).get("return")
    params = [spec for field in msgspec.structs.fields(task.parameters_type) if (spec := _param(field)) is not None]
    return ModelSignature(
        inputs=Schema(_columns(fields, None)), outputs=Schema(_columns(answer, hint)), params=ParamSchema(params)
    )


def given_params(params: Mapping[str, object] | None) -> dict[str, object]:
    """The request's parameters in MLflow's params, which have the signature's default where a caller gives none."""
    return {name: value for name, value in (params or {}).items() if value is not None and value != []}


def _columns(value: object, hint: object) -> "list[ColSpec]":
    from mlflow.types import ColSpec

    if isinstance(value, dict):
        return [ColSpec(_type_of(each, None), name) for name, each in value.items()]
    return [ColSpec(_type_of(value, hint))]


def _type_of(value: object, hint: object) -> object:
    """MLflow's type of plain data. hint: of its annotation, for what an empty list does not tell; None if unknown."""
    from mlflow.types.schema import AnyType, Array, DataType, Object, Property

    if isinstance(value, dict):
        return Object([Property(name, _type_of(each, None)) for name, each in value.items()])
    if isinstance(value, list):
        inner = next((get_args(each)[0] for each in _members(hint) if get_origin(each) is list), None)
        return Array(_type_of(value[0], inner) if value else _type_of_hint(inner))
    return DataType[SCALARS[type(value)]] if type(value) in SCALARS else AnyType()


def _type_of_hint(hint: object) -> object:
    from mlflow.types.schema import AnyType, Array, DataType, Object, Property

    for member in _members(hint):
        if member in SCALARS:
            return DataType[SCALARS[member]]
        if get_origin(member) is list:
            return Array(_type_of_hint(get_args(member)[0]))
        if is_typeddict(member):
            optional = member.__optional_keys__
            types = get_type_hints(member).items()
            return Object([Property(name, _type_of_hint(each), required=name not in optional) for name, each in types])
    return AnyType()


def _param(field: msgspec.structs.FieldInfo) -> "ParamSpec | None":
    """The param of a request's parameter: of its first type that MLflow has, and a list where a text or several are
    taken. None of one that is an object, which MLflow (3.17) takes with fixed fields only.
    """
    from mlflow.types import ParamSpec

    members = _members(field.type)
    takes_list = any(get_origin(each) in (list, tuple) for each in members)
    for member in members:
        if get_origin(member) is Literal:
            return ParamSpec(field.encode_name, "string", _default(field))
    if takes_list:
        return ParamSpec(field.encode_name, "string", [], (-1,))
    kind = next((SCALARS[each] for each in members if each in SCALARS), None)
    return None if kind is None else ParamSpec(field.encode_name, kind, _default(field))


def _default(field: msgspec.structs.FieldInfo) -> object:
    return field.default if type(field.default) in SCALARS else None


def _members(hint: object) -> list[Any]:
    """The types of a union, without None and annotations; the type itself if it is none."""
    if get_origin(hint) is Annotated:
        return _members(get_args(hint)[0])
    if get_origin(hint) in (Union, UnionType):
        return [each for member in get_args(hint) for each in _members(member)]
    return [] if hint is type(None) else [hint]
