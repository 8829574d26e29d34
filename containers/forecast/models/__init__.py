"""The models that forecast a customer's weeks, and the backtest that chooses one for each
customer."""
