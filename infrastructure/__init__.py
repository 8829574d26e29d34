"""The infrastructure of Tenantry: the CloudFormation template, its deployment, and the local cloud,
which takes the same template."""
