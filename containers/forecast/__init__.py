"""Energy consumption forecasts, one model per customer: preparation, training and serving."""
