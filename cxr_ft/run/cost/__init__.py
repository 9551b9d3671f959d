"""Forecast and measure a run's memory, time, energy and parameters."""
