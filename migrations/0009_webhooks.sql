-- Webhooks: what is to be told to stores' own servers, every attempt at it, and the secrets that sign it.

-- migrate:up
CREATE TABLE webhook_secrets (
    instance_id text NOT NULL,
    -- As the store has it: whsec_ and 32 random bytes in base64. Not hashed, for we sign with it.
    secret      text NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    -- Set when another has taken its place: until then both sign.
    expires_at  timestamptz,
    PRIMARY KEY (instance_id, secret)
);
CREATE TABLE webhook_deliveries (
    -- Made of the job and the attempt that ended: the same end is told once, however often it is heard of.
    id           uuid PRIMARY KEY,
    job_id       uuid NOT NULL REFERENCES blog_generations (id) ON DELETE CASCADE,
    instance_id  text NOT NULL,
    url          text NOT NULL,
    -- The very bytes that are signed and sent, at every attempt.
    payload      text NOT NULL,
    state        text NOT NULL DEFAULT 'WAITING' CHECK (state IN ('WAITING', 'DELIVERED', 'FAILED')),
    attempts     integer NOT NULL DEFAULT 0,
    -- When it is tried next; while it is being tried, when somebody else may take it up.
    next_at      timestamptz NOT NULL DEFAULT now(),
    created_at   timestamptz NOT NULL DEFAULT now(),
    delivered_at timestamptz
);
CREATE INDEX idx_webhook_deliveries_due ON webhook_deliveries (next_at) WHERE state = 'WAITING';
CREATE INDEX idx_webhook_deliveries_store ON webhook_deliveries (instance_id, created_at DESC, id DESC);
CREATE TABLE webhook_attempts (
    delivery_id uuid NOT NULL REFERENCES webhook_deliveries (id) ON DELETE CASCADE,
    at          timestamptz NOT NULL,
    -- What the store's server answered, or why it could not be asked.
    status      integer,
    error       text,
    seconds     double precision NOT NULL,
    PRIMARY KEY (delivery_id, at)
);

-- migrate:down
DROP TABLE webhook_attempts;
DROP TABLE webhook_deliveries;
DROP TABLE webhook_secrets;
