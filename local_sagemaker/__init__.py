"""Amazon SageMaker on one machine.

`python -m local_sagemaker --port N --state FOLDER --containers FOLDER` serves the `sagemaker` and
`sagemaker-runtime` APIs on 127.0.0.1. It really trains and serves: an image `…/NAME:TAG` runs the
executable `FOLDER/NAME/train` or `…/serve` as a process with the documented `/opt/ml` layout below
`SAGEMAKER_BASE_DIR`. S3, SNS, CloudWatch and CloudWatch Logs are whatever `AWS_ENDPOINT_URL` says.

Beside AWS's APIs there are two control calls: `GET /_local/health` answers 200 as soon as requests
are taken, and `POST /_local/reset` kills every container and forgets everything.
docs/local-cloud.md tells what is emulated and what is refused.
"""
