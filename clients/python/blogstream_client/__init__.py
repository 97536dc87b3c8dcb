"""A small typed client of blogstream's HTTP interface."""

from blogstream_client.client import Client, ProblemError
from blogstream_client.models import ENDED, Budget, Event, Job, Post
from blogstream_client.webhooks import WebhookVerificationError, verify_webhook

__all__ = [
    "ENDED",
    "Budget",
    "Client",
    "Event",
    "Job",
    "Post",
    "ProblemError",
    "WebhookVerificationError",
    "verify_webhook",
]
