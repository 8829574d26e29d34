"""The smallest whole container: what a day of each weekday usually brings, for each tenant."""
