-- The jobs, their paid steps, the finished posts, the stores' counters and the API keys.

-- migrate:up
CREATE TABLE blog_generations (
    id                  uuid PRIMARY KEY,
    -- The store. The column keeps the name that operators' dashboards and the index know: an instance is a store.
    instance_id         text NOT NULL,
    status              text NOT NULL DEFAULT 'PENDING'
        CHECK (status IN ('PENDING', 'PROCESSING', 'DONE', 'FAILED', 'REJECTED', 'CANCELLED')),
    source_type         text NOT NULL CHECK (source_type IN ('keyword', 'product', 'topic')),
    source_id           text NOT NULL,
    -- The whole request as it was accepted (shared.messages.BlogRequested).
    request             jsonb NOT NULL,
    priority            smallint NOT NULL DEFAULT 0,
    -- runAt, or the end of a retry's backoff: the scheduler does not forward earlier.
    not_before          timestamptz,

    created_at          timestamptz NOT NULL,
    admitted_at         timestamptz NOT NULL DEFAULT now(),
    -- Set while a forward is outstanding: PENDING and forwarded means on its way to a worker.
    forwarded_at        timestamptz,
    forwarded_partition integer,
    forward_count       integer NOT NULL DEFAULT 0,
    started_at          timestamptz,
    finished_at         timestamptz,

    -- The claim: who works on it and until when. Every later write names the attempt, so a late worker is fenced off.
    attempt             integer NOT NULL DEFAULT 0,
    worker              text,
    lease_until         timestamptz,

    -- Money in billionths of a US dollar: what forwarding reserved, what providers billed, what the store was charged.
    estimate_nanousd    bigint NOT NULL DEFAULT 0,
    cost_nanousd        bigint NOT NULL DEFAULT 0,
    charged_nanousd     bigint NOT NULL DEFAULT 0,
    input_tokens        bigint NOT NULL DEFAULT 0,
    output_tokens       bigint NOT NULL DEFAULT 0,
    images              integer NOT NULL DEFAULT 0,

    error_code          text,
    error               text
);

CREATE TABLE blog_steps (
    job_id          uuid NOT NULL REFERENCES blog_generations (id) ON DELETE CASCADE,
    step            text NOT NULL CHECK (step IN ('outline', 'article', 'image', 'assemble')),
    -- STARTED before the call is paid for, so that a crash in between is seen afterwards.
    state           text NOT NULL CHECK (state IN ('STARTED', 'DONE', 'FAILED')),
    attempt         integer NOT NULL,
    call_started_at timestamptz NOT NULL DEFAULT now(),
    finished_at     timestamptz,
    -- The provider's own id of the call, as soon as it exists (Replicate's prediction): resumed, not made again.
    external_id     text,
    result          jsonb,
    input_tokens    bigint NOT NULL DEFAULT 0,
    output_tokens   bigint NOT NULL DEFAULT 0,
    images          integer NOT NULL DEFAULT 0,
    cost_nanousd    bigint NOT NULL DEFAULT 0,
    -- How often the call was begun without a saved answer: more than once means that one may have been paid in vain.
    in_doubt        integer NOT NULL DEFAULT 0,
    PRIMARY KEY (job_id, step)
);

CREATE TABLE blog_posts (
    job_id           uuid PRIMARY KEY REFERENCES blog_generations (id) ON DELETE CASCADE,
    title            text NOT NULL,
    slug             text NOT NULL,
    meta_description text NOT NULL,
    html             text NOT NULL,
    image_url        text
);

CREATE TABLE stores (
    instance_id       text PRIMARY KEY,
    weight            double precision NOT NULL DEFAULT 1 CHECK (weight > 0),
    -- The virtual counter of the fair order, and the running mean that estimates the next job.
    served_nanousd    bigint NOT NULL DEFAULT 0,
    mean_cost_nanousd bigint NOT NULL DEFAULT 0,
    settled_jobs      bigint NOT NULL DEFAULT 0,
    updated_at        timestamptz NOT NULL DEFAULT now()
);

-- One row. Whoever takes the scheduler's lead raises the epoch; writes under an older one find nothing to update.
CREATE TABLE scheduler_leader (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    epoch    bigint NOT NULL DEFAULT 0,
    holder   text,
    since    timestamptz
);
INSERT INTO scheduler_leader DEFAULT VALUES;

CREATE TABLE api_keys (
    id          text PRIMARY KEY,
    instance_id text NOT NULL,
    hash        bytea NOT NULL UNIQUE,
    hint        text NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    revoked_at  timestamptz,
    changed_at  timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX idx_api_keys_changed ON api_keys (changed_at);

-- migrate:down
DROP TABLE api_keys;
DROP TABLE scheduler_leader;
DROP TABLE stores;
DROP TABLE blog_posts;
DROP TABLE blog_steps;
DROP TABLE blog_generations;
