"""What Tenantry runs on: the CloudFormation template, how it is applied, and the local cloud it
also applies to."""
