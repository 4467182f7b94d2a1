"""polars: by_polars.py FILE int|float|f64

The fastest way found: the type is said beforehand, and the mode is a group-by on the streaming engine, 1.5 to 5 times
as fast as `mode()`. All in one lazy select took 2 to 3 times as long on floats. It has no reader of raw values: numpy's.
"""

import json
import sys

import polars as pl


def load(path, kind):
    if kind == "f64":
        import numpy as np

        return pl.DataFrame({"x": np.fromfile(path, dtype="<f8")})
    schema = {"x": pl.Int64 if kind == "int" else pl.Float64}
    return pl.read_csv(path, has_header=False, schema=schema)


if __name__ == "__main__":
    frame = load(*sys.argv[1:])
    column = frame["x"]
    answer = {"mean": column.mean(), "median": column.median()}
    count = pl.col("len")
    groups = frame.lazy().group_by("x").len().filter(count == count.max())
    most = groups.collect(engine="streaming")["x"]
    print(json.dumps(answer | {"modes": most.head(1000).to_list(), "total": len(most)}))
