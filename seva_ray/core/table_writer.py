"""A parquet file that is written while its table is still being made, so that not all of the table lies in memory."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pyarrow as pa
import pyarrow.parquet as pq

from seva_ray.core.scratch import scratch_directory
from seva_ray.core.storage import write_parts, write_table

PART_ROWS = 2**20
"""Number of rows in a part (row group) of the file: Arrow's own limit, so the file is the same as that of
`write_table`."""
BLOCK_BYTES = 2**22


class TableWriter:
    """Takes a table piece by piece; see `table_writer`."""

    def __init__(self, uri: str):
        self.uri = uri
        self.waiting: list[pa.Table] = []
        self.num_waiting = 0
        self.stack = ExitStack()
        self.path = ""
        self.file: pq.ParquetWriter | None = None

    def add(self, table: pa.Table) -> None:
        self.waiting.append(table)
        self.num_waiting += len(table)
        while self.num_waiting > PART_ROWS:
            self.flush()

    def flush(self) -> None:
        """Write one part of the file."""
        table = self.joined()
        if self.file is None:
            self.path = f"{self.stack.enter_context(scratch_directory('seva-table-'))}/file"
            self.file = self.stack.enter_context(pq.ParquetWriter(self.path, table.schema, compression="zstd"))
        self.file.write_table(table.slice(0, PART_ROWS))
        self.waiting = [table.slice(PART_ROWS)]
        self.num_waiting = len(self.waiting[0])

    def joined(self) -> pa.Table:
        return pa.concat_tables(self.waiting).combine_chunks()

    def finish(self) -> None:
        """Write the file, all or nothing. There is no file if nothing was added."""
        if self.file is None:
            if self.waiting:
                write_table(self.uri, self.joined())
            return
        self.flush()
        self.file.close()
        write_parts(self.uri, lambda: blocks_of(self.path))


@contextmanager
def table_writer(uri: str) -> Iterator[TableWriter]:
    """The file appears at the end, unless an error ends the block. A large one lies on the local disk until then."""
    writer = TableWriter(uri)
    with writer.stack:
        yield writer
        writer.finish()


def blocks_of(path: str) -> Iterator[bytes]:
    with open(path, "rb") as file:
        while block := file.read(BLOCK_BYTES):
            yield block
