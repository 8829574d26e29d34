"""Reads and writes DynamoDB: the only writer of condition and update expressions.

Rows are plain values here: numbers are ``Decimal``, sets are sets. Keys come from
``tenantry.names.table_keys``; conditions are boto3's (``boto3.dynamodb.conditions.Attr``).
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

from boto3.dynamodb.conditions import Attr, ConditionBase, ConditionExpressionBuilder, Key
from boto3.dynamodb.types import TypeDeserializer, TypeSerializer
from botocore.exceptions import ClientError

from tenantry.aws.objects import error_code
from tenantry.errors import TenantryError
from tenantry.names.table_keys import ItemKey

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

Row = Mapping[str, Any]

PARTITION: Final = "tenant"
"""The partition key's attribute, of every table."""

MISSING: Final[ConditionBase] = Attr(PARTITION).not_exists()
"""The condition that there is no item under the key."""

_KEYS_A_CALL: Final = 100  # BatchGetItem takes no more
_ROWS_A_PAGE: Final = 1000
_FIRST_PAUSE: Final = 0.05  # seconds; doubles
_LONGEST_PAUSE: Final = 2.0
_MAX_ASKED_AGAIN: Final = 12  # times in a row in which not one key was answered

_serialize = TypeSerializer().serialize
_deserialize = TypeDeserializer().deserialize


class ConditionNotMetError(TenantryError, RuntimeError):
    """The item is not as the write demands; nothing was written.

    ``found`` is the item as it is; None where there is none, or where a put was refused.
    """

    def __init__(self, found: Row | None = None) -> None:
        super().__init__("the item is not as the write demands")
        self.found = found


class ItemTooLargeError(TenantryError, RuntimeError):
    """The item would outgrow the 400 KB that DynamoDB allows; nothing was written."""


class TableBusyError(TenantryError, RuntimeError):
    """The table did not answer for some keys, however often it was asked."""


@dataclass(frozen=True)
class Table:
    """A table. ``sort`` is its sort key's attribute."""

    dynamodb: DynamoDBClient
    name: str
    sort: str

    # ---- one item --------------------------------------------------------------------------------

    def get(self, key: ItemKey, *, consistent: bool = True) -> dict[str, Any] | None:
        """The item under a key; a read that is not ``consistent`` may lag behind."""
        answer = self.dynamodb.get_item(
            TableName=self.name, Key=self._key(key), ConsistentRead=consistent
        )
        return _row(answer["Item"]) if "Item" in answer else None

    def put(self, key: ItemKey, row: Row, *, only_if: ConditionBase | None = None) -> None:
        """Write an item in place of the one that is there. Attributes that are None are left out.

        Raises:
            ConditionNotMetError: ``only_if`` does not hold.
            ItemTooLargeError: it is larger than 400 KB.
        """
        item = {name: _serialize(value) for name, value in row.items() if value is not None}
        with _refusals():
            self.dynamodb.put_item(
                TableName=self.name,
                Item={**item, **self._key(key)},
                **_expressions(ConditionExpression=only_if),
            )

    def update(
        self,
        key: ItemKey,
        setting: Row | None = None,
        *,
        appending: Mapping[str, Sequence[Any]] | None = None,
        adding: Row | None = None,
        deleting: Mapping[str, set[str]] | None = None,
        only_if: ConditionBase | None = None,
    ) -> dict[str, Any]:
        """Change attributes of an item; a missing item is created.

        Args:
            key: of the item.
            setting: attributes and their new values; None removes one.
            appending: values to append to existing lists.
            adding: numbers to add, or sets whose members join the attribute's.
            deleting: sets whose members leave the attribute's.
            only_if: what must hold.

        Returns:
            The item as it is afterwards.

        Raises:
            ConditionNotMetError: ``only_if`` does not hold; its ``found`` is the item.
            ItemTooLargeError: it would be larger than 400 KB.
        """
        expression = _Update()
        for name, value in (setting or {}).items():
            expression.set_or_remove(name, value)
        for name, values in (appending or {}).items():
            expression.append(name, values)
        for name, value in (adding or {}).items():
            expression.add(name, value)
        for name, value in (deleting or {}).items():
            expression.delete(name, value)
        with _refusals():
            answer = self.dynamodb.update_item(
                TableName=self.name,
                Key=self._key(key),
                ReturnValues="ALL_NEW",
                ReturnValuesOnConditionCheckFailure="ALL_OLD" if only_if is not None else "NONE",
                **expression.arguments(only_if),
            )
        return _row(answer["Attributes"])

    def delete(self, key: ItemKey) -> None:
        """Delete an item, if it is there."""
        self.dynamodb.delete_item(TableName=self.name, Key=self._key(key))

    # ---- many items ------------------------------------------------------------------------------

    def get_many(self, keys: Iterable[ItemKey]) -> Iterator[dict[str, Any]]:
        """The items under some keys, each once, read consistently, in no order; a hundred to a
        call.

        Keys that a call leaves unanswered are asked for again after a growing pause, as AWS advises
        (API_BatchGetItem).

        Raises:
            TableBusyError: repeated calls answered none of the remaining keys.
        """
        wanted = list(dict.fromkeys(keys))  # DynamoDB refuses a call that names an item twice
        for start in range(0, len(wanted), _KEYS_A_CALL):
            pending: Any = [self._key(key) for key in wanted[start : start + _KEYS_A_CALL]]
            in_vain = 0
            while pending:
                answer = self.dynamodb.batch_get_item(
                    RequestItems={self.name: {"Keys": pending, "ConsistentRead": True}}
                )
                for item in answer["Responses"].get(self.name, []):
                    yield _row(item)
                unanswered = answer.get("UnprocessedKeys", {}).get(self.name)
                left: Any = unanswered["Keys"] if unanswered else []
                in_vain = in_vain + 1 if len(left) == len(pending) else 0
                if in_vain > _MAX_ASKED_AGAIN:
                    raise TableBusyError(
                        f"table {self.name} left {len(left)} keys unanswered {in_vain} times in a "
                        f"row; raise its read capacity, or try again later"
                    )
                pending = left
                if pending:
                    longest = min(_FIRST_PAUSE * 2**in_vain, _LONGEST_PAUSE)
                    # Not a secret: the jitter only keeps colliding callers apart.
                    time.sleep(random.uniform(0, longest))  # noqa: S311

    def query(
        self, partition: str, *, beginning: str = "", most: int | None = None
    ) -> Iterator[dict[str, Any]]:
        """A partition's items in the order of their sort keys, read consistently.

        Args:
            partition: which.
            beginning: the prefix of their sort keys.
            most: the most items to read; one call reads up to a megabyte of them.
        """
        condition: ConditionBase = Key(PARTITION).eq(partition)
        if beginning:
            condition &= Key(self.sort).begins_with(beginning)
        return self._pages(condition, (), ConsistentRead=True, most=most)

    def query_index(
        self, index: str, condition: ConditionBase, attributes: Sequence[str] = ()
    ) -> Iterator[dict[str, Any]]:
        """Items of an index, in its order; it lags a little behind the table.

        Args:
            index: its name.
            condition: on the index's keys (``boto3.dynamodb.conditions.Key``).
            attributes: which to read; all that the index has, if none are named.
        """
        return self._pages(condition, attributes, IndexName=index)

    def count(self, index: str, condition: ConditionBase) -> int:
        """How many items of an index meet a condition on its keys."""
        pages = self.dynamodb.get_paginator("query").paginate(
            TableName=self.name,
            IndexName=index,
            Select="COUNT",
            **_expressions(KeyConditionExpression=condition),
        )
        return sum(page["Count"] for page in pages)

    def keys_where(self, condition: ConditionBase) -> Iterator[ItemKey]:
        """The keys of all items that meet a condition. It reads the table from end to end."""
        arguments = _expressions(FilterExpression=condition)
        pages = self.dynamodb.get_paginator("scan").paginate(
            TableName=self.name, **_projected(arguments, (PARTITION, self.sort))
        )
        for page in pages:
            for item in page["Items"]:
                row = _row(item)
                yield ItemKey(row[PARTITION], row[self.sort])

    def _pages(
        self,
        condition: ConditionBase,
        attributes: Sequence[str],
        *,
        most: int | None = None,
        **where: Any,
    ) -> Iterator[dict[str, Any]]:
        arguments = _expressions(KeyConditionExpression=condition)
        limits = {"PageSize": most or _ROWS_A_PAGE, "MaxItems": most}
        pages = self.dynamodb.get_paginator("query").paginate(
            TableName=self.name,
            PaginationConfig=cast("Any", limits),
            **_projected(arguments, attributes),
            **where,
        )
        for page in pages:
            for item in page["Items"]:
                yield _row(item)

    def _key(self, key: ItemKey) -> dict[str, Any]:
        return {PARTITION: {"S": key.partition}, self.sort: {"S": key.sort}}


def _row(item: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _deserialize(value) for name, value in item.items()}


@contextmanager
def _refusals() -> Iterator[None]:
    """A context in which DynamoDB's refusals become errors of this module."""
    try:
        yield
    except ClientError as error:
        if error_code(error) == "ConditionalCheckFailedException":
            found = cast("Mapping[str, Any]", error.response.get("Item") or {})
            raise ConditionNotMetError(_row(found) if found else None) from error
        if error_code(error) == "ValidationException" and "size" in str(error):
            raise ItemTooLargeError(str(error)) from error
        raise


def _expressions(**conditions: ConditionBase | None) -> dict[str, Any]:
    """Conditions as arguments of a call, each under the argument's name."""
    builder, arguments = ConditionExpressionBuilder(), dict[str, Any]()
    names, values = dict[str, str](), dict[str, Any]()
    for argument, condition in conditions.items():
        if condition is None:
            continue
        built = builder.build_expression(
            condition, is_key_condition=argument == "KeyConditionExpression"
        )
        arguments[argument] = built.condition_expression
        names |= built.attribute_name_placeholders
        values |= built.attribute_value_placeholders
    if names:
        arguments["ExpressionAttributeNames"] = names
    if values:
        arguments["ExpressionAttributeValues"] = {
            name: _serialize(value) for name, value in values.items()
        }
    return arguments


def _projected(arguments: dict[str, Any], attributes: Sequence[str]) -> dict[str, Any]:
    """The arguments of a call that reads only some attributes; all of them, if none are named."""
    if not attributes:
        return arguments
    placeholders = {f"#p{number}": name for number, name in enumerate(attributes)}
    return {
        **arguments,
        "ProjectionExpression": ", ".join(placeholders),
        "ExpressionAttributeNames": {
            **arguments.get("ExpressionAttributeNames", {}),
            **placeholders,
        },
    }


class _Update:
    """An update expression as it grows; boto3 writes conditions, but not these."""

    def __init__(self) -> None:
        self._parts: dict[str, list[str]] = {"SET": [], "REMOVE": [], "ADD": [], "DELETE": []}
        self._names: dict[str, str] = {}
        self._values: dict[str, Any] = {}

    def _name(self, attribute: str) -> str:
        placeholder = f"#u{len(self._names)}"
        self._names[placeholder] = attribute
        return placeholder

    def _value(self, value: Any) -> str:
        placeholder = f":u{len(self._values)}"
        self._values[placeholder] = _serialize(value)
        return placeholder

    def set_or_remove(self, attribute: str, value: Any) -> None:
        if value is None:
            self._parts["REMOVE"].append(self._name(attribute))
        else:
            self._parts["SET"].append(f"{self._name(attribute)} = {self._value(value)}")

    def append(self, attribute: str, values: Sequence[Any]) -> None:
        name = self._name(attribute)
        self._parts["SET"].append(f"{name} = list_append({name}, {self._value(list(values))})")

    def add(self, attribute: str, value: Any) -> None:
        self._parts["ADD"].append(f"{self._name(attribute)} {self._value(value)}")

    def delete(self, attribute: str, values: set[str]) -> None:
        self._parts["DELETE"].append(f"{self._name(attribute)} {self._value(values)}")

    def arguments(self, only_if: ConditionBase | None) -> dict[str, Any]:
        condition = _expressions(ConditionExpression=only_if)
        values = {**condition.get("ExpressionAttributeValues", {}), **self._values}
        return {
            **condition,
            "UpdateExpression": " ".join(
                f"{action} {', '.join(parts)}" for action, parts in self._parts.items() if parts
            ),
            "ExpressionAttributeNames": {
                **condition.get("ExpressionAttributeNames", {}),
                **self._names,
            },
            **({"ExpressionAttributeValues": values} if values else {}),
        }
