"""The text to begin a workload from; it can be used as it is."""

from __future__ import annotations

from typing import Final

_TEXT: Final = """\
# What it offers, to whom. docs/adding-a-workload.md tells every field.
name: {name} # the file's name
title: {title}
description: One model per customer. Say here what it is for.
owners: ["team:{name}"]
container: forecast # a folder below containers/: forecasts a column of numbers; or write your own
image_tag: "0.1.0"
tier: bridge # unless a tenant's own setting says silo or pool

upload: # what a tenant may hand in; columns `timestamp` and `consumption`, or `customer_id`, too
  file_types: [csv, parquet]
  max_files: 4
  max_megabytes: 64
  parameters:
    timezone: {{type: string, default: UTC, description: "IANA time zone the customer lives by"}}
    country: {{type: string, default: "", description: "ISO country code, for public holidays"}}

preparation: containers.forecast.consumption.preparation # checks an upload, and prepares it

training:
  instance_type: ml.c5.xlarge
  usd_per_hour: 0.23 # put your region's and contract's price here
  max_instances: 2
  tenants_per_instance: 100
  volume_gigabytes: 10
  max_seconds: 3600
  attempts: 3
  pack: {{max_tenants: 200, wait_seconds: 5}} # tenants that share a training job
  hyperparameters: {{frequency: auto, batch_size: "200"}}

quality: # when a new model takes over
  metric: mase
  baseline: baseline_mase
  lower_is_better: true
  tolerance: 0.15

serving: # one multi-model endpoint for all tenants of a tier
  instance_type: ml.c5.large
  usd_per_hour: 0.115
  instances: 1
  smoke_request: {{period: 1, start: data_end}} # what every new model must answer
  cache: {{enabled: true, max_kilobytes: 256}}

moment: # forecasts begin at a moment
  module: containers.forecast.stored_forecasts.starts
  field: start

batch: # what is predicted for everyone, and when
  cron: "45 2 * * *"
  timezone: UTC
  request: {{period: 7}}
  instance_type: ml.m5.large
  usd_per_hour: 0.115
  instances: 1
  tenants_per_job: 500
  max_seconds: 3600
"""


def skeleton(name: str) -> str:
    """The YAML of a workload ``name`` that runs with the container ``forecast``."""
    return _TEXT.format(name=name, title=name.capitalize())
