"""Tables that strangers uploaded: CSV and Parquet, read within bounds."""
