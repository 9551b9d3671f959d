"""Draw quality against the time of training."""

from functools import partial

from cxr_ft.show import number_format
from cxr_ft.show.charts import Chart
from cxr_ft.show.charts._quality import CostAxis, draw
from cxr_ft.show.recorded_runs import number

COST = CostAxis("Time to train", lambda result: number(result, "cost", "train_seconds"), number_format.seconds)

CHART = Chart(draw=partial(draw, COST), order=20)
