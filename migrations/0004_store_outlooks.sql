-- Why each store's jobs wait, and until about when: the active scheduler's word, for clients who ask after a job.

-- migrate:up
-- Unlogged: after a crash it is empty, and the scheduler says it anew within seconds.
CREATE UNLOGGED TABLE store_outlooks (
    instance_id text PRIMARY KEY,
    reason      text NOT NULL,
    limited_by  text,
    -- Jobs of this store that are due and wait, and about how many of others go before its first.
    queued      integer NOT NULL,
    ahead       integer NOT NULL,
    -- When its first and its last waiting job will probably begin.
    first_at    timestamptz,
    last_at     timestamptz,
    said_at     timestamptz NOT NULL
);

-- migrate:down
DROP TABLE store_outlooks;
