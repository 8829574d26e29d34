"""The AWS account and the ways to reach it: the deployment, S3, DynamoDB, SQS, notices, a shared
rate of calls."""
