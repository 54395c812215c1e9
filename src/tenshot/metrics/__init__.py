"""Metrics whose names fix their protocol: `METRICS` says what there is, `score` measures.

    score(fakes, reals, shots, names=("fd_efflite_2k",))["fd_efflite_2k"]["value"]

Below them lie pure functions of features, one file per question: `frechet`, `kernel`, `neighbours`, `intra`.
"""

from tenshot.metrics.protocol import METRICS as METRICS
from tenshot.metrics.protocol import Metric as Metric
from tenshot.metrics.protocol import score as score
