"""duckdb: by_duckdb.py FILE int|float|f64

The fastest way found: the type is said beforehand, and the mode is a group-by, 10 % faster than `mode(x)`, which names
one value, too. It has no reader of raw values: it scans numpy's."""

import json
import sys

import duckdb


def table(path, kind):
    if kind == "f64":
        import numpy as np

        # duckdb finds a numpy column in the variables of whoever asks.
        return {"x": np.fromfile(path, dtype="<f8")}, "SELECT x FROM columns"
    name = "BIGINT" if kind == "int" else "DOUBLE"
    reader = f"read_csv('{path}', header=false, auto_detect=false, columns={{'x': '{name}'}})"
    return None, f"SELECT x FROM {reader}"


if __name__ == "__main__":
    columns, select = table(*sys.argv[1:])
    ((mean, median, mode),) = duckdb.sql(
        f"WITH numbers AS MATERIALIZED ({select}) SELECT avg(x), median(x),"
        " (SELECT x FROM numbers GROUP BY x ORDER BY count(*) DESC LIMIT 1) FROM numbers"
    ).fetchall()
    print(json.dumps({"mean": mean, "median": median, "modes": [mode]}))
