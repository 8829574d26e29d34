# Dagster: one image for the webserver, the daemon, the code server and runs (docs/scaling.md).
# Build from the repository's root: make images IMAGES=dagster, or
# docker build -f infrastructure/dagster.Dockerfile .
ARG BASE_IMAGE=public.ecr.aws/docker/library/python:3.11-slim-bookworm
# `make images` puts the folder of packages that it fetched in the place of this empty one.
FROM scratch AS packages
FROM ${BASE_IMAGE}

# Not 1000, which a base image's own user may have.
RUN useradd --uid 10001 --create-home tenantry

WORKDIR /opt/tenantry
COPY pyproject.toml README.md requirements.lock ./
# Versions are the lock's. The system's Python is the container's: there is nothing to protect from
# pip (PEP 668). Editable, because the code runs from here, as in a checkout.
RUN --mount=type=bind,from=packages,target=/run/packages \
    grep -o '^[^ ]*==[^ ]*' requirements.lock > /tmp/constraints.txt \
    && PIP_CONFIG_FILE=/run/packages/pip.conf python3 -m pip install --break-system-packages \
    --no-cache-dir --constraint /tmp/constraints.txt --editable '.[dagster,tracing]' \
    && rm /tmp/constraints.txt

COPY assets assets
COPY containers containers
COPY contracts contracts
COPY orchestration orchestration
COPY pipes_sagemaker pipes_sagemaker
COPY resources resources
COPY tenantry tenantry
COPY workloads workloads
# The user may not write here, so what is compiled once spares each process that work.
RUN python3 -m compileall -q .

# Another dagster.yaml takes the place of this one in an image of its own.
COPY orchestration/dagster.yaml /opt/dagster/home/dagster.yaml
RUN chown -R tenantry:tenantry /opt/dagster/home

ENV DAGSTER_HOME=/opt/dagster/home \
    PYTHONUNBUFFERED=1

USER tenantry
EXPOSE 3000 4000
