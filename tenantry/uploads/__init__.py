"""From a tenant's files to checked training data; strangers' files are read in processes with
limits."""
