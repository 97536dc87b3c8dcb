-- name: source
-- Returns whether a store is known, the number of its jobs that have not ended or whose cost is not
-- charged yet, the ids of all its jobs, and the latest migration.
SELECT EXISTS (SELECT 1 FROM api_keys WHERE instance_id = $1 AND scope = 'store')
    OR count(id) > 0 AS known,
       count(*) FILTER (WHERE status <> ALL ($2::text[]) OR charged_nanousd <> cost_nanousd)
           AS open_jobs,
       coalesce(array_agg(id) FILTER (WHERE id IS NOT NULL), '{}') AS jobs,
       (SELECT max(version) FROM schema_migrations) AS version
  FROM blog_generations WHERE instance_id = $1;

-- name: target
-- Returns how many of the store's jobs have not ended or are not among $3, and the latest migration.
SELECT count(*) FILTER (WHERE status <> ALL ($2::text[]) OR id <> ALL ($3::uuid[])) AS other_jobs,
       (SELECT max(version) FROM schema_migrations) AS version
  FROM blog_generations WHERE instance_id = $1;

-- name: remove_jobs
-- Deletes an earlier copy of a store's jobs, with their steps, posts and deliveries.
DELETE FROM blog_generations WHERE instance_id = $1;

-- name: remove_spend
-- Deletes an earlier copy of a store's spend, and what the copied steps have booked again.
DELETE FROM store_spend WHERE instance_id = $1;

-- name: remove_budget
-- Deletes an earlier copy of a store's budget.
DELETE FROM store_budgets WHERE instance_id = $1;

-- name: remove_secrets
-- Deletes an earlier copy of a store's webhook secrets.
DELETE FROM webhook_secrets WHERE instance_id = $1;

-- name: create_key_copy
-- Creates the table that receives the keys.
CREATE TEMPORARY TABLE copied_keys (LIKE api_keys) ON COMMIT DROP;

-- name: merge_keys
-- Adds the copied keys and their revocations.
INSERT INTO api_keys SELECT * FROM copied_keys
ON CONFLICT (id) DO UPDATE SET revoked_at = excluded.revoked_at;

-- name: touch_keys
-- Marks the keys as changed now, so that running ingest processes read them.
UPDATE api_keys SET changed_at = clock_timestamp() WHERE instance_id = $1;

-- name: touch_budget
-- Marks the budget as changed now, so that the running scheduler reads it.
UPDATE store_budgets SET changed_at = clock_timestamp() WHERE instance_id = $1;

-- name: blog_generations
-- Returns a store's jobs. This query and those below are named after the table that they copy.
SELECT * FROM blog_generations WHERE instance_id = $1;

-- name: blog_steps
-- Returns the steps of a store's jobs.
SELECT step.* FROM blog_steps AS step JOIN blog_generations AS job ON job.id = step.job_id
 WHERE job.instance_id = $1;

-- name: blog_posts
-- Returns the posts of a store's jobs.
SELECT post.* FROM blog_posts AS post JOIN blog_generations AS job ON job.id = post.job_id
 WHERE job.instance_id = $1;

-- name: webhook_deliveries
-- Returns a store's deliveries without those that wait: the old cell sends them.
SELECT * FROM webhook_deliveries WHERE instance_id = $1 AND state <> 'WAITING';

-- name: webhook_attempts
-- Returns the attempts of the copied deliveries.
SELECT attempt.* FROM webhook_attempts AS attempt
       JOIN webhook_deliveries AS delivery ON delivery.id = attempt.delivery_id
 WHERE delivery.instance_id = $1 AND delivery.state <> 'WAITING';

-- name: store_spend
-- Returns a store's spend by month.
SELECT * FROM store_spend WHERE instance_id = $1;

-- name: store_budgets
-- Returns a store's budget.
SELECT * FROM store_budgets WHERE instance_id = $1;

-- name: webhook_secrets
-- Returns a store's webhook secrets.
SELECT * FROM webhook_secrets WHERE instance_id = $1;

-- name: api_keys
-- Returns a store's keys, without those of operators.
SELECT * FROM api_keys WHERE instance_id = $1;
