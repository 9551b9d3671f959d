"""Plain functions on arrays and strings. Knows neither torch nor the rest of the package."""
