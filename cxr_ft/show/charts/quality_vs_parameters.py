"""Draw quality against the number of trained parameters."""

from functools import partial

from cxr_ft.show import number_format
from cxr_ft.show.charts import Chart
from cxr_ft.show.charts._quality import CostAxis, draw
from cxr_ft.show.recorded_runs import number

COST = CostAxis(
    "Trainable parameters", lambda result: number(result, "cost", "parameters", "trainable"), number_format.brief
)

CHART = Chart(draw=partial(draw, COST), order=10)
