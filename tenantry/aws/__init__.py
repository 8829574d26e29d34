"""What stands in the account and how it is reached: the deployment, objects in S3, notices, a
shared rate of calls."""
