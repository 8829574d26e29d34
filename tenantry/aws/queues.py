"""Reads SQS's queues. A received message comes again until it is deleted, so its handler must
tolerate seeing it twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

MESSAGES_A_CALL: Final = 10
"""SQS gives and takes no more in one call (API_ReceiveMessage, API_DeleteMessageBatch)."""


@dataclass(frozen=True)
class Message:
    """A received message; ``receipt`` is the handle that deletes it."""

    body: str
    receipt: str


@dataclass(frozen=True)
class Queue:
    """A queue."""

    sqs: SQSClient
    url: str

    def receive(self) -> list[Message]:
        """Up to ten messages, without waiting. An empty answer does not prove an empty queue: SQS
        looks at some of its servers only."""
        answer = self.sqs.receive_message(
            QueueUrl=self.url, MaxNumberOfMessages=MESSAGES_A_CALL, WaitTimeSeconds=0
        )
        return [
            Message(message["Body"], message["ReceiptHandle"])
            for message in answer.get("Messages", [])
        ]

    def send(self, body: str) -> None:
        """Put a message into the queue."""
        self.sqs.send_message(QueueUrl=self.url, MessageBody=body)

    def delete(self, receipts: Sequence[str]) -> None:
        """Delete messages that were received. One that SQS does not delete comes again."""
        unique = list(dict.fromkeys(receipts))
        for start in range(0, len(unique), MESSAGES_A_CALL):
            some = unique[start : start + MESSAGES_A_CALL]
            self.sqs.delete_message_batch(
                QueueUrl=self.url,
                Entries=[
                    {"Id": str(number), "ReceiptHandle": receipt}
                    for number, receipt in enumerate(some)
                ],
            )

    def counts(self) -> tuple[int, int]:
        """How many messages wait, and how many are being handled; SQS counts approximately."""
        found = self.sqs.get_queue_attributes(
            QueueUrl=self.url,
            AttributeNames=["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"],
        )["Attributes"]
        return (
            int(found["ApproximateNumberOfMessages"]),
            int(found["ApproximateNumberOfMessagesNotVisible"]),
        )
