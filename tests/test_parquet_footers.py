"""Footers of Parquet files: what ends the process in pyarrow is an error before it is asked for."""

from __future__ import annotations

import base64
import io
import os
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tokpack import api
from tokpack.errors import DataError
from tokpack.files.parquet_files import open_parquet, row_group_columns
from tokpack.on_disk.shards import read_row, read_shard

TABLE = pa.table({"text": ["hello there"] * 50, "more": [{"a": [n], "b": "x"} for n in range(50)]})


def encrypted(path: Path, columns: list[str], plain_footer: bool = True) -> Path:
    encryption = pytest.importorskip("pyarrow.parquet.encryption")

    class Keys(encryption.KmsClient):
        def __init__(self, settings):
            super().__init__()

        def wrap_key(self, key, name):
            return base64.b64encode(key)

        def unwrap_key(self, key, name):
            return base64.b64decode(key)

    how = encryption.EncryptionConfiguration(
        footer_key="f", column_keys={"c": columns}, plaintext_footer=plain_footer
    )
    keys = encryption.CryptoFactory(Keys)
    properties = keys.file_encryption_properties(encryption.KmsConnectionConfig(), how)
    with pq.ParquetWriter(path, TABLE.schema, encryption_properties=properties) as writer:
        writer.write_table(TABLE, row_group_size=20)
    return path


@pytest.mark.parametrize("column", ["text", "more.b"])
def test_an_encrypted_column_under_a_plain_footer_is_an_error(column, tmp_path, qwen):
    path = encrypted(tmp_path / "rows.parquet", [column])
    with pytest.raises(DataError, match=f"the column {column} is encrypted") as found:
        api.pack(path, tmp_path / "out", tokenizer=qwen)
    assert found.value.hint == "decrypt the file first"
    with pytest.raises(DataError, match="encrypted"):
        list(read_shard(path))
    with pytest.raises(DataError, match="encrypted"):
        read_row(path, 0)


def test_an_encrypted_footer_is_an_error(tmp_path):
    with pytest.raises(OSError, match="encrypt"):
        open_parquet(encrypted(tmp_path / "rows.parquet", ["text"], plain_footer=False))


def test_footers_of_any_size_are_walked_to_their_end():
    draw = random.Random(0)
    for _ in range(30):
        columns = {f"{n}" * draw.randrange(1, 300): [draw.random()] * 9 for n in range(draw.randrange(1, 40))}
        made = io.BytesIO()
        about = {"x" * draw.randrange(20): "y" * draw.randrange(20_000)}
        table = pa.table(columns).replace_schema_metadata(about)
        pq.write_table(table, made, row_group_size=draw.randrange(1, 10), write_page_index=True)
        file = open_parquet(made)
        for number, group in enumerate(row_group_columns(made)):
            chunks = [file.metadata.row_group(number).column(each) for each in range(len(columns))]
            assert [each[:6] for each in group] == [
                (
                    chunk.path_in_schema,
                    chunk.num_values,
                    chunk.total_uncompressed_size,
                    chunk.total_compressed_size,
                    chunk.data_page_offset,
                    chunk.has_dictionary_page,
                )
                for chunk in chunks
            ]


def survives(data: bytes) -> bool:
    """Whether a process that reads the file lives, in a process that may die."""
    if child := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    code = 1
    try:
        stream = io.BytesIO(data)
        with open_parquet(stream) as file:
            for column in (column for group in row_group_columns(stream) for column in group):
                assert isinstance(column.path, str)
            for batch in file.iter_batches(use_threads=False):
                batch.validate()
        code = 0
    except (OSError, pa.ArrowException):
        code = 0
    finally:
        os._exit(code)


@pytest.mark.slow
def test_no_change_of_a_footer_ends_the_process(tmp_path):
    draw = random.Random(1)
    plain = io.BytesIO()
    pq.write_table(TABLE, plain, row_group_size=20)
    files = [plain.getvalue(), encrypted(tmp_path / "rows.parquet", ["text"]).read_bytes()]
    for number in range(int(os.environ.get("TOKPACK_FOOTERS", "24"))):
        data = bytearray(files[number % 2])
        size = int.from_bytes(data[-8:-4], "little")
        for _ in range(draw.choice([1, 1, 2, 4])):
            data[len(data) - 8 - draw.randrange(size)] = draw.choice(
                [0, 1, 12, 25, 28, 255, draw.randrange(256)]
            )
        assert survives(bytes(data)), number
