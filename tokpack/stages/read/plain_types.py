"""Arrow's many types of one meaning -> the one that the fast paths read: text, list, struct.

Views, dictionaries of text, list views and fixed-size lists, at any depth. Lists are built from their values
and lengths: Arrow's own cast of a list view leaves its last offset out. Other types stay as they are; the
row-by-row path reads every type.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def plain_batch(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The same rows, and the same batch where nothing is to be done."""
    if not any(is_odd(field.type) for field in batch.schema):
        return batch
    columns = [plain_array(column) for column in batch.columns]
    fields = [field.with_type(column.type) for field, column in zip(batch.schema, columns, strict=True)]
    return pa.RecordBatch.from_arrays(columns, schema=pa.schema(fields, batch.schema.metadata))


def plain_array(array: pa.Array) -> pa.Array:
    kind = array.type
    if not is_odd(kind):
        return array
    if pa.types.is_string_view(kind):
        return array.cast(pa.large_string())
    if pa.types.is_binary_view(kind):
        return array.cast(pa.large_binary())
    if pa.types.is_dictionary(kind):
        return array.dictionary_decode()
    if pa.types.is_struct(kind):
        columns = [plain_array(child) for child in array.flatten()]
        fields = [kind.field(number).with_type(child.type) for number, child in enumerate(columns)]
        return pa.StructArray.from_arrays(columns, fields=fields, mask=array.is_null())
    lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    ends = pa.array(np.concatenate([[0], np.cumsum(lengths)]))
    return pa.LargeListArray.from_arrays(ends, plain_array(array.flatten()), mask=array.is_null())


def is_list(kind: pa.DataType) -> bool:
    """A list of any of Arrow's kinds; maps are none."""
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or _is_odd_list(kind))


def _is_odd_list(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(types.is_fixed_size_list(kind) or types.is_list_view(kind) or types.is_large_list_view(kind))


def is_odd(kind: pa.DataType) -> bool:
    types = pa.types
    if is_list(kind):
        return _is_odd_list(kind) or is_odd(kind.value_type)
    if types.is_struct(kind):
        return any(is_odd(kind.field(number).type) for number in range(kind.num_fields))
    if types.is_dictionary(kind):
        return bool(types.is_string(kind.value_type) or types.is_large_string(kind.value_type))
    return bool(types.is_string_view(kind) or types.is_binary_view(kind))
