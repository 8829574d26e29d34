"""The models that forecast such weeks, and the backtest that chooses one for each customer."""
