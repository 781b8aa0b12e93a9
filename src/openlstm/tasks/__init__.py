"""Forecasting: training, prediction, scores and the commands. Prediction and scores need no torch."""
