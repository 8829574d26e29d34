"""The code that the containers of all families share: the packed-training loop and the model
server."""
