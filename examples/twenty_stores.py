"""A table of twenty stores with prices and holidays: written, trained on, scored, and forecast with next month's prices."""

from pathlib import Path

import numpy as np

import openlstm

# Two years of daily sales. Each store has its own size, week and price; on a holiday it sells less, on the day before more.
random = np.random.default_rng(0)
days = np.arange("2022-01-01", "2024-01-29", dtype="datetime64[D]")
weekday, year = (days.astype(int) + 3) % 7, days.astype("datetime64[Y]").astype(str)
holidays = {f"{y}-{d}" for y in sorted(set(year)) for d in ("01-01", "05-01", "07-14", "11-01", "12-25")}
holiday = np.array([str(day) in holidays for day in days])
around = np.where(holiday, 0.4, np.where(np.roll(holiday, -1), 1.5, 1.0))
season = 1 + 0.2 * np.sin(2 * np.pi * np.arange(len(days)) / 365.25)
past, future = ["date,store,region,price,holiday,sales"], ["date,store,price,holiday"]
for store in range(1, 21):
    size, week = random.uniform(40, 400), random.uniform(0.8, 1.2, 7) * [1, 1, 1, 1.1, 1.4, 1.6, 0.6]
    offers = np.repeat(random.random(len(days) // 14 + 1) < 0.25, 14)[: len(days)]  # two weeks at a lower price
    price = np.round(random.uniform(4, 6) * np.where(offers, 0.8, 1.0), 2)
    mean = size * week[weekday] * season * np.where(offers, 1.5, 1.0) * around
    sales = random.poisson(mean * random.gamma(50, 1 / 50, len(days)))
    unknown = random.random(len(days)) < 0.005  # days on which nobody counted
    for k, day in enumerate(days):
        known = f"{price[k]},{'yes' if holiday[k] else 'no'}"
        if k < len(days) - 28:
            past.append(f"{day},S{store:02},{('north', 'south')[store % 2]},{known},{'' if unknown[k] else sales[k]}")
        else:
            future.append(f"{day},S{store:02},{known}")
Path("stores.csv").write_text("\n".join(past) + "\n")
Path("next.csv").write_text("\n".join(future) + "\n")

columns = {"time": "date", "target": "sales", "series": ("store",), "future": ("price", "holiday"), "static": ("region",)}
forecaster = openlstm.Forecaster(horizon=28, **columns, members=1, hidden_size=32, steps=200, batch_size=64)
forecaster.fit("stores.csv", holdout=56)
result = forecaster.evaluate()  # on the last 56 days of each store, which training never saw
print(result.verdict())
errors = {score.name: score.mase or 0.0 for score in result.scores}
assert errors["LSTM"] < errors["seasonal naive"]

forecaster.save("stores.safetensors")
model = openlstm.load("stores.safetensors")  # numpy and the engine; no torch needed from here on
forecast = model.predict(model.panel("stores.csv", future_data="next.csv"))
for store, sales in list(zip(forecast.keys, forecast.median, strict=True))[:3]:
    print(f"{store[0]}: {sales.sum():,.0f} in the next four weeks")
