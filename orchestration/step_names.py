"""The names of the jobs' steps. A run's configuration names its step.

It imports no Dagster, so that a program can launch a job through Dagster's API alone.
"""


def batch_step(workload: str) -> str:
    """The step that predicts for everyone."""
    return f"{workload}_predict_everyone"


def rollback_step(workload: str) -> str:
    """The step that rolls a tenant back."""
    return f"{workload}_roll_back"


def tier_step(workload: str) -> str:
    """The step that sets a tenant's tier."""
    return f"{workload}_set_tier"


def trial_step(workload: str) -> str:
    """The step that starts, judges, promotes or ends a trial."""
    return f"{workload}_steer_trial"
