-- Jobs that somebody has cancelled or asked for again. Built concurrently: writers go on.

-- migrate:up transaction=false
CREATE INDEX CONCURRENTLY IF NOT EXISTS idx_blog_generations_intervened
    ON blog_generations (intervened_at) WHERE intervened_at IS NOT NULL;

-- migrate:down
DROP INDEX IF EXISTS idx_blog_generations_intervened;
