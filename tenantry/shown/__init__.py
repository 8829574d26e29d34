"""What people see: metadata, plots, pictures, and the story of what operators did."""
