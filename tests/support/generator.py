"""The generator's tests share these settings: a worker that stand-ins pay, and that no limit holds up."""

from pathlib import Path
from typing import Any

from services.generator.settings import GeneratorSettings
from tests.support.fake_providers import StandIns


def worker_settings(
    *, bootstrap: str, prefix: str, database: str, standins: StandIns, folder: Path, **changes: Any
) -> GeneratorSettings:
    values: dict[str, Any] = {
        "kafka_bootstrap_servers": bootstrap,
        "kafka_topic_prefix": prefix,
        "database_url": database,
        "db_pool_min": 1,
        "openai_api_key": "sk-x",
        "openai_base_url": f"{standins.openai.url}/v1",
        "openai_rpm": 60_000,
        "openai_tpm": 9e7,
        "replicate_api_token": "r8-x",
        "replicate_base_url": standins.replicate.url,
        "replicate_rpm": 60_000,
        "image_dir": folder,
        "standin": True,
        "drain_s": 20,
    }
    return GeneratorSettings.model_validate(values | changes)
