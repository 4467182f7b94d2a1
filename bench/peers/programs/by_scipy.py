"""scipy: by_scipy.py FILE int|float|f64|npy

Read and averaged by numpy, which scipy builds on. Its mode is one value, also where several are as frequent."""

import json
import sys

import numpy as np
from by_numpy import load
from scipy import stats

if __name__ == "__main__":
    column = load(*sys.argv[1:])
    mode = stats.mode(column).mode.item()
    print(json.dumps({"mean": float(column.mean()), "median": float(np.median(column)), "modes": [mode]}))
