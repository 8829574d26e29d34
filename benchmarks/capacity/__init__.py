"""What a scaling policy costs, and how long requests wait under it, by simulation."""
