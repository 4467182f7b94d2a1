"""Makes the columns that are measured: columns.py DIRECTORY ROWS, by a Python that has numpy.

The same bytes on every machine: fixed seeds, and a generator whose stream numpy keeps. A file that is there is kept;
each is written beside its name and renamed when it is whole."""

import os
import sys

import numpy as np

SEED = 20_250_101
# Values between two writes: text is formatted value by value, in Python.
BLOCK = 1 << 20


def ints(rows, rng):
    """Small integers, as counts and ratings are."""
    return rng.integers(0, 1000, rows)


def floats(rows, rng):
    """Floats of 17 digits, as programs print what they computed."""
    return rng.random(rows)


def zipf(rows, rng):
    """Ranks by Zipf's law, exponent 1, of a million words: few are frequent, most are rare."""
    weights = 1 / np.arange(1, 1_000_001)
    ends = np.cumsum(weights)
    return np.searchsorted(ends, rng.random(rows) * ends[-1], side="right") + 1


def unique(rows, rng):
    """Shuffled integers of up to 12 digits, all different and too far apart to be counted by value."""
    return rng.permutation(rows) * 99_991 + 7


def normal(rows, rng):
    """Measurements."""
    return rng.standard_normal(rows)


def text(format_value):
    def write(path, column):
        with open(path, "w", encoding="ascii") as file:
            for start in range(0, len(column), BLOCK):
                block = column[start : start + BLOCK].tolist()
                file.write("\n".join(map(format_value, block)) + "\n")

    return write


def raw(path, column):
    column.astype("<f8", copy=False).tofile(path)


def npy(path, column):
    with open(path, "wb") as file:
        np.save(file, column.astype("<f8", copy=False))


# name: (values, rows in multiples of ROWS, writer)
COLUMNS = {
    "ints.txt": (ints, 1, text(str)),
    "floats.txt": (floats, 1, text("{:.17g}".format)),
    "zipf.txt": (zipf, 1, text(str)),
    "unique.txt": (unique, 1, text(str)),
    "normal.f64": (normal, 10, raw),
    "normal.npy": (normal, 10, npy),
    "one.txt": (ints, 0, text(str)),
}


def main():
    directory, rows = sys.argv[1], int(sys.argv[2])
    os.makedirs(directory, exist_ok=True)
    for name, (values, multiple, write) in COLUMNS.items():
        path = os.path.join(directory, name)
        if os.path.exists(path):
            continue
        print(f"making {path}", file=sys.stderr)
        write(path + ".part", values(rows * multiple or 1, np.random.default_rng(SEED)))
        os.rename(path + ".part", path)


if __name__ == "__main__":
    main()
