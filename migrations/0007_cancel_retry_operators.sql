-- Jobs that people cancel or ask for again, and keys of operators, who may act on every store's jobs.

-- migrate:up
ALTER TABLE blog_generations
    -- How often somebody asked for it again. Each takes an attempt's number, so that what is said of a job stays in order.
    ADD COLUMN retries integer NOT NULL DEFAULT 0,
    -- When somebody last cancelled it or asked for it again: the scheduler looks for these when an event got lost.
    ADD COLUMN intervened_at timestamptz;
ALTER TABLE api_keys
    -- An operator's key belongs to no store: its instance_id is '*', which no store can be called.
    ADD COLUMN scope text NOT NULL DEFAULT 'store' CHECK (scope IN ('store', 'operator')),
    -- Who the operator is.
    ADD COLUMN name text;

-- migrate:down
DELETE FROM api_keys WHERE scope = 'operator';
ALTER TABLE api_keys DROP COLUMN name, DROP COLUMN scope;
ALTER TABLE blog_generations DROP COLUMN intervened_at, DROP COLUMN retries;
