"""Tables that MLflow hands to an artifact's `python_function`."""

import pandas
import pytest

from serving.errors import Unprocessable
from serving.pyfunc import _to_inputs
from serving.tasks import get_task


def test_a_table_with_two_columns_of_one_name_is_refused() -> None:
    table = pandas.DataFrame([["a", "b"]], columns=["text", "text"])
    with pytest.raises(Unprocessable, match="column 'text' comes twice"):
        _to_inputs(table, get_task("text-classification"))
    assert _to_inputs(table.iloc[:, :1], get_task("text-classification")) == ["a"]
