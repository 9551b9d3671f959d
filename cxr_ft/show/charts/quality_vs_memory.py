"""Draw quality against the peak memory of training."""

from functools import partial

from cxr_ft.show import number_format
from cxr_ft.show.charts import Chart
from cxr_ft.show.charts._quality import CostAxis, draw
from cxr_ft.show.recorded_runs import peak_bytes

COST = CostAxis("Peak memory in training", peak_bytes, number_format.size)

CHART = Chart(draw=partial(draw, COST), order=30)
