-- The calls that were begun, by partition of the budget: who takes a partition over finds here what its last owner
-- had spent and not yet noted. And attempts that ended through no fault of the job: they do not use up its tries.

-- migrate:up
CREATE TABLE provider_calls (
    job_id     uuid NOT NULL,
    step       text NOT NULL,
    -- By the worker's clock, as its notes are: when the limiter let the call go.
    started_at timestamptz NOT NULL,
    partition  integer NOT NULL,
    provider   text NOT NULL,
    requests   integer NOT NULL,
    tokens     bigint NOT NULL,
    PRIMARY KEY (job_id, step, started_at)
);
CREATE INDEX idx_provider_calls_partition ON provider_calls (partition, started_at);
ALTER TABLE blog_generations ADD COLUMN blameless integer NOT NULL DEFAULT 0;

-- migrate:down
ALTER TABLE blog_generations DROP COLUMN blameless;
DROP TABLE provider_calls;
