"""What training leaves for the server: a model's file, and when a forecast of it starts."""
