"""What is owed to whom: the queue, whose turn it is, and which requests share a training job."""
