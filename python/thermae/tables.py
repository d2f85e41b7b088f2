"""Arrow tables as bytes: the IPC stream format of Arrow itself, so that every Arrow library reads them.

The package pyarrow is needed only where tables are stored or read. A record batch is stored as a stream of
one batch and comes back as a table.
"""

from __future__ import annotations

from typing import Any

from thermae.errors import WrongTypeError


def encode(value: Any) -> bytes:
    """The IPC stream of a `pyarrow.Table` or `pyarrow.RecordBatch`."""
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, value.schema) as stream:
        stream.write(value)
    stream_bytes: bytes = sink.getvalue().to_pybytes()
    return stream_bytes


def decode(data: bytes | memoryview) -> Any:
    """A `pyarrow.Table` on the memory of `data`, without a copy; it is valid all through.

    Raises:
        WrongTypeError: pyarrow is not installed, or these are not the bytes of a stream.
    """
    try:
        import pyarrow as pa
    except ImportError as error:
        raise WrongTypeError(
            "the value is an Arrow table: install pyarrow (pip install 'thermae[arrow]') to read it"
        ) from error

    try:
        with pa.ipc.open_stream(pa.py_buffer(data)) as stream:
            table = stream.read_all()
        # Whatever works on the table trusts its offsets: a wrong one would read other memory, or crash.
        table.validate(full=True)
        return table
    except (pa.ArrowException, MemoryError, OSError, OverflowError, ValueError) as error:
        raise WrongTypeError(
            f"a value is marked as an Arrow stream and is none ({error}): ask who wrote it"
        ) from error
