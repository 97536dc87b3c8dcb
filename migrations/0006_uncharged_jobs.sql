-- Jobs with a bill that is still to be charged: a new leader looks for them. Built concurrently: writers go on.

-- migrate:up transaction=false
CREATE INDEX CONCURRENTLY IF NOT EXISTS idx_blog_generations_uncharged
    ON blog_generations (id) WHERE charged_nanousd <> cost_nanousd;

-- migrate:down
DROP INDEX IF EXISTS idx_blog_generations_uncharged;
