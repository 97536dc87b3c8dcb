-- The indexes that keep the hot paths short while thousands of jobs wait. Built concurrently: writers go on.

-- migrate:up transaction=false
CREATE INDEX CONCURRENTLY IF NOT EXISTS idx_blog_generations_pending
    ON blog_generations (created_at) WHERE status = 'PENDING';
CREATE INDEX CONCURRENTLY IF NOT EXISTS idx_blog_generations_instance_status
    ON blog_generations (instance_id, status, created_at DESC, id DESC);
CREATE INDEX CONCURRENTLY IF NOT EXISTS idx_blog_generations_instance_created
    ON blog_generations (instance_id, created_at DESC, id DESC);
CREATE INDEX CONCURRENTLY IF NOT EXISTS idx_blog_generations_finished
    ON blog_generations (finished_at DESC) WHERE finished_at IS NOT NULL;
CREATE INDEX CONCURRENTLY IF NOT EXISTS idx_blog_generations_processing
    ON blog_generations (lease_until) WHERE status = 'PROCESSING';

-- migrate:message [Migration] Blog generation indexes optimized for high concurrency

-- migrate:down
DROP INDEX IF EXISTS idx_blog_generations_processing;
DROP INDEX IF EXISTS idx_blog_generations_finished;
DROP INDEX IF EXISTS idx_blog_generations_instance_created;
DROP INDEX IF EXISTS idx_blog_generations_instance_status;
DROP INDEX IF EXISTS idx_blog_generations_pending;
