"""Metrics whose names fix their protocol: `METRICS` says what there is, `evaluate` and `score` measure.

    evaluate("runs/robots", real="robots.zip/heldout", shots="robots.zip/shots")["metrics"]["fd_efflite_2k"]["value"]
    score(fakes, reals, shots, names=["fd_efflite_2k"])["fd_efflite_2k"]["value"]

Below them lie pure functions of features, one file per question (`frechet`, `kernel`, `neighbours`, `intra`), and one
file per network (`efflite`, `inception`, `vgg`, `dinov2`).
"""

from tenshot.metrics.evaluation import evaluate as evaluate
from tenshot.metrics.protocol import score as score
from tenshot.metrics.table import METRICS as METRICS
from tenshot.metrics.table import OFFLINE as OFFLINE
from tenshot.metrics.table import QUICK as QUICK
from tenshot.metrics.table import Metric as Metric
