"""Processing jobs: their requests, layout and life."""
