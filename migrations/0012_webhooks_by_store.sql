-- Deliveries that are due are found store by store, however many of one wait. Built concurrently: writers go on.

-- migrate:up transaction=false
CREATE INDEX CONCURRENTLY IF NOT EXISTS idx_webhook_deliveries_due_by_store
    ON webhook_deliveries (instance_id, next_at) WHERE state = 'WAITING';
DROP INDEX CONCURRENTLY IF EXISTS idx_webhook_deliveries_due;

-- migrate:down
CREATE INDEX IF NOT EXISTS idx_webhook_deliveries_due ON webhook_deliveries (next_at) WHERE state = 'WAITING';
DROP INDEX IF EXISTS idx_webhook_deliveries_due_by_store;
