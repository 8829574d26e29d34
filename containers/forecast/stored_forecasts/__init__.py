"""The contract between training and server: a model's file, and the start of its forecasts."""
