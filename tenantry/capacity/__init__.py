"""How many instances endpoints have: what the YAML says, as Application Auto Scaling takes it, and
policies of our own."""
