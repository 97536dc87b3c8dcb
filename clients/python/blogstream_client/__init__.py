"""A typed client of blogstream's HTTP API."""

from blogstream_client.client import Client
from blogstream_client.models import (
    ENDED,
    Budget,
    Delivery,
    DeliveryAttempt,
    Event,
    Job,
    LeftOut,
    Post,
    Step,
    Taken,
    Ticket,
    Usage,
    Waiting,
)
from blogstream_client.request_fields import Fields, Request, SourceType
from blogstream_client.transport import ProblemError
from blogstream_client.webhooks import WebhookVerificationError, verify_webhook

__all__ = [
    "ENDED",
    "Budget",
    "Client",
    "Delivery",
    "DeliveryAttempt",
    "Event",
    "Fields",
    "Job",
    "LeftOut",
    "Post",
    "ProblemError",
    "Request",
    "SourceType",
    "Step",
    "Taken",
    "Ticket",
    "Usage",
    "Waiting",
    "WebhookVerificationError",
    "verify_webhook",
]
