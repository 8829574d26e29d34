"""Amazon SageMaker on one machine.

`python -m local_sagemaker --port N --state FOLDER --containers FOLDER` serves the `sagemaker` and
`sagemaker-runtime` APIs on 127.0.0.1. It runs real training and serving: an image `…/NAME:TAG` runs
the executable `FOLDER/NAME/train` or `…/serve` as a process with the documented `/opt/ml` layout
below `SAGEMAKER_BASE_DIR`. `AWS_ENDPOINT_URL` names the S3, SNS, CloudWatch and CloudWatch Logs
that it uses.

Besides AWS's APIs it has control calls below `/_local/`. `GET /_local/health` answers 200 as soon
as the emulator accepts requests; `POST /_local/reset` kills every container and forgets everything.
docs/local-cloud.md lists the control calls, and the emulated and refused features.
"""
