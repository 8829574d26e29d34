"""The endpoint follows the YAML by itself."""

from dagster import AssetSelection, AutomationCondition, DagsterInstance, evaluate_automation_conditions

from assets.chosen_partitions import asset_key
from orchestration.definitions import defs

ENDPOINT = asset_key("energy", "serving_endpoint")
ONLY = AssetSelection.assets(ENDPOINT)


def test_a_missing_endpoint_is_asked_for_once_at_the_first_look(dagster_instance: DagsterInstance) -> None:
    assert defs.resolve_asset_graph().get(ENDPOINT).automation_condition != AutomationCondition.on_missing()
    first = evaluate_automation_conditions(defs=defs, instance=dagster_instance, asset_selection=ONLY)
    assert first.get_num_requested(ENDPOINT) == 1
    again = evaluate_automation_conditions(
        defs=defs, instance=dagster_instance, asset_selection=ONLY, cursor=first.cursor
    )
    assert again.get_num_requested(ENDPOINT) == 0
