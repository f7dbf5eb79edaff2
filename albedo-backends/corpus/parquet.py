"""Writes parquet/*.parquet: one task in compressions and shapes that other writers use.

    python parquet.py parquet          needs pyarrow
"""

import sys

import pyarrow as pa
import pyarrow.parquet as pq

MESSAGE = pa.struct([("role", pa.string()), ("content", pa.string())])
# A member of a message that has a `role` of its own.
NESTED = pa.struct([("role", pa.string()), ("content", pa.string()), ("meta", pa.struct([("role", pa.string())]))])


def table(message, last):
    messages = [{"role": "user", "content": "Repair it."}, {"role": "assistant", "content": last}]
    if message is NESTED:
        messages = [{**one, "meta": {"role": "x"}} for one in messages]
    return pa.table({
        "instance_id": ["one"],
        "repo": ["repository"],
        "messages": pa.array([messages], pa.list_(message)),
    })


out = sys.argv[1]
for compression in ("lz4", "brotli", "snappy", "gzip", "zstd"):
    pq.write_table(table(MESSAGE, "Done."), f"{out}/{compression}.parquet", compression=compression)
pq.write_table(table(NESTED, "Done."), f"{out}/nested-role.parquet")
pq.write_table(table(MESSAGE, None), f"{out}/null-content.parquet")
