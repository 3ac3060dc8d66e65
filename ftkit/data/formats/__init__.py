"""What other tools wrote, read as rows (lesson 02): `read_table`.

Read `table` (what comes out), `read` (which reader a file gets), `decode` (bytes to text), `delimited` (CSV and its kin),
`json_text`, `columnar` (Parquet, Excel, datasets), `shapes` (conversations and instructions), `export` (the way
back), then `own`: the files that every task has.
"""

from ftkit.common.faces import face

__getattr__, __dir__ = face(
    __name__,
    {
        "table": "Reading Rejected Table set_aside",
        "read": "read_table",
        "shapes": "recognize",
    },
)
