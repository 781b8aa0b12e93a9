"""From a CSV file with gaps to a model file, a score beside baselines, and a forecast made without torch."""

import math
from pathlib import Path

import numpy as np

import openlstm

# Three years of a daily measurement: a week's rhythm, a year's rhythm, noise, and a few days on which nobody measured.
random = np.random.default_rng(0)
days = np.arange("2021-01-01", "2024-01-01", dtype="datetime64[D]")
t = np.arange(len(days))
values = 50 + 8 * np.sin(2 * np.pi * t / 7) + 15 * np.sin(2 * np.pi * t / 365.25) + random.normal(0, 1, len(t))
values[random.integers(0, len(t), 40)] = math.nan
rows = [f"{day},{'' if math.isnan(v) else round(float(v), 3)}" for day, v in zip(days, values, strict=True)]
Path("measured.csv").write_text("\n".join(["day,load", *rows]) + "\n")

forecaster = openlstm.Forecaster(horizon=28, time="day", target="load", members=1, hidden_size=32, steps=200)
forecaster.fit("measured.csv", holdout=84)
result = forecaster.evaluate()  # on the last 84 days, which training never saw
for score in result.scores:
    print(f"{score.name:<28} MASE {score.mase:.2f}  RMSE {score.rmse:.2f}")
print(result.verdict())
errors = {score.name: score.mase or 0.0 for score in result.scores}
assert errors["LSTM"] < errors["naive"]

forecaster.save("load.safetensors")
model = openlstm.load("load.safetensors")  # numpy and the engine; no torch needed from here on
forecast = model.predict(values, start=days[0])
lower, upper = forecast.bands[80]
print(f"tomorrow: {forecast.median[0, 0]:.1f}, with 80 % between {lower[0, 0]:.1f} and {upper[0, 0]:.1f}")
