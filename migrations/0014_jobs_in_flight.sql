-- Jobs in flight are found among all that wait and all that ever were: the scheduler looks at them every few seconds.
-- By id, so that a claim, which asks for one of them, may use it too. Built concurrently: writers go on.

-- migrate:up transaction=false
CREATE INDEX CONCURRENTLY IF NOT EXISTS idx_blog_generations_in_flight
    ON blog_generations (id) WHERE status IN ('PENDING', 'PROCESSING') AND forwarded_at IS NOT NULL;

-- migrate:down
DROP INDEX IF EXISTS idx_blog_generations_in_flight;
