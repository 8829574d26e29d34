"""What exists for each tenant: training data, fine-tuned artifact, endpoint registration, batch predictions; and for each
workload: its serving endpoint and that endpoint's capacity."""
