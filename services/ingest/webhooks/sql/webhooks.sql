-- name: list_ended_jobs
-- Returns those of the given jobs ($1) that have ended and have a webhook, with its content.
SELECT job.id, job.instance_id AS store, job.status, job.attempt, job.source_type, job.source_id,
       job.created_at, job.started_at, job.finished_at, job.attempt - job.retries AS attempts,
       job.not_before, job.input_tokens, job.output_tokens, job.reasoning_tokens, job.images,
       job.cost_nanousd,
       job.error_code, job.error, job.request ->> 'webhook_url' AS url
  FROM blog_generations AS job
 WHERE id = ANY ($1::uuid[]) AND status IN ('DONE', 'FAILED', 'CANCELLED')
   AND request ->> 'webhook_url' IS NOT NULL;

-- name: list_unannounced_cancellations
-- Returns jobs with a webhook that were cancelled within the last hour and have no delivery since:
-- their events may have been lost.
SELECT id FROM blog_generations AS job
 WHERE intervened_at > now() - interval '1 hour' AND status = 'CANCELLED'
   AND request ->> 'webhook_url' IS NOT NULL
   AND NOT EXISTS (SELECT 1 FROM webhook_deliveries
                    WHERE job_id = job.id AND created_at >= job.intervened_at);

-- name: add_deliveries
-- Adds deliveries and returns the new ones; existing deliveries stay unchanged.
INSERT INTO webhook_deliveries (id, job_id, instance_id, url, payload)
SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::text[])
ON CONFLICT (id) DO NOTHING
RETURNING id;

-- name: lease_due_deliveries
-- Leases up to $1 due deliveries for $2 seconds. A store gets at most $3 at once, counting those
-- in progress ($4: the store of each). The first delivery of every store precedes the second of
-- any. The recursion jumps from store to store in the index, so a long backlog of one store costs
-- nothing and hides no other store.
WITH RECURSIVE waiting AS (
    (SELECT instance_id FROM webhook_deliveries WHERE state = 'WAITING'
      ORDER BY instance_id LIMIT 1)
    UNION ALL
    SELECT following.instance_id
      FROM waiting,
           LATERAL (SELECT instance_id FROM webhook_deliveries
                     WHERE state = 'WAITING' AND instance_id > waiting.instance_id
                     ORDER BY instance_id LIMIT 1) AS following
), due AS (
    SELECT oldest.id,
           under_way.sends + row_number() OVER (PARTITION BY instance_id ORDER BY oldest.next_at)
               AS place
      FROM waiting,
           LATERAL (SELECT count(*) AS sends FROM unnest($4::text[]) AS store
                     WHERE store = instance_id) AS under_way,
           LATERAL (SELECT id, next_at FROM webhook_deliveries
                     WHERE state = 'WAITING' AND instance_id = waiting.instance_id
                       AND next_at <= now()
                     ORDER BY next_at LIMIT greatest($3 - under_way.sends, 0)) AS oldest
     ORDER BY place, oldest.next_at LIMIT 5 * $1 -- spares, in case other processes lease the first
), taken AS (
    SELECT delivery.id FROM due JOIN webhook_deliveries AS delivery USING (id)
     WHERE state = 'WAITING' AND next_at <= now()
     ORDER BY place, next_at LIMIT $1 FOR UPDATE OF delivery SKIP LOCKED
)
UPDATE webhook_deliveries SET next_at = now() + make_interval(secs => $2)
 WHERE id IN (SELECT id FROM taken)
RETURNING id, instance_id AS store, url, payload, attempts + 1 AS attempt, next_at AS lease_until;

-- name: list_secrets
-- Returns the valid secrets of a store, newest first.
SELECT secret FROM webhook_secrets
 WHERE instance_id = $1 AND (expires_at IS NULL OR expires_at > now()) ORDER BY created_at DESC;

-- name: record_attempt
-- Records the outcome of an attempt, and the next state if the lease that ends at $2 still holds.
WITH updated AS (
    UPDATE webhook_deliveries
       SET state = $3, attempts = attempts + 1, next_at = now() + make_interval(secs => $4),
           delivered_at = CASE WHEN $3 = 'DELIVERED' THEN now() END
     WHERE id = $1 AND state = 'WAITING' AND next_at = $2
)
INSERT INTO webhook_attempts (delivery_id, at, status, error, seconds)
VALUES ($1, $5, $6, $7, $8)
ON CONFLICT DO NOTHING;

-- name: list_deliveries
-- Returns a page of a store's deliveries, newest first, of one job ($2) or of all (NULL), after a
-- position ($3, $4).
SELECT delivery.id, job_id, url, state, attempts, next_at, created_at, delivered_at, payload,
       (SELECT coalesce(jsonb_agg(jsonb_build_object('at', at, 'status', status, 'error', error,
                                                     'seconds', seconds)
                        ORDER BY at), '[]')
          FROM webhook_attempts WHERE delivery_id = delivery.id) AS log
  FROM webhook_deliveries AS delivery
 WHERE instance_id = $1 AND ($2::uuid IS NULL OR job_id = $2)
   AND ($3::timestamptz IS NULL OR (created_at, id) < ($3, $4::uuid))
 ORDER BY created_at DESC, id DESC LIMIT $5;

-- name: replay_delivery
-- Queues a delivery of one store ($2) or of any store (NULL) again, with all its attempts; a
-- waiting delivery becomes due at once.
UPDATE webhook_deliveries SET state = 'WAITING', attempts = 0, next_at = now(), delivered_at = NULL
 WHERE id = $1 AND ($2::text IS NULL OR instance_id = $2)
RETURNING id;
