-- Deliveries are found by their job: who removes jobs removes them with it. Built concurrently: writers go on.

-- migrate:up transaction=false
CREATE INDEX CONCURRENTLY IF NOT EXISTS idx_webhook_deliveries_job ON webhook_deliveries (job_id);

-- migrate:down
DROP INDEX IF EXISTS idx_webhook_deliveries_job;
